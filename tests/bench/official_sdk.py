"""The official Python SDK doing the same: `python official_sdk.py PORT PROMPT`."""

import sys

import lmstudio

with lmstudio.Client(f"127.0.0.1:{sys.argv[1]}") as client:
    for fragment in client.llm.model("echo").respond_stream(sys.argv[2]):
        sys.stdout.write(fragment.content)
        sys.stdout.flush()
    sys.stdout.write("\n")
