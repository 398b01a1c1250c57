import lmcli as lms

with lms.Client() as client:
    model = client.llm.model()

    for fragment in model.respond_stream("What is the meaning of life?"):
        print(fragment.content, end="", flush=True)
    print()
