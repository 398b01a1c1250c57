"""The official Python SDK with many prompts: `python official_sdk_batch.py PORT JOBS < PROMPTS`, a prompt a line.

With JOBS 0 its synchronous client in a loop, else so many predictions at once of its asynchronous client. It prints the
answers in the order of the prompts.
"""

import asyncio
import sys

import lmstudio


def answered_in_turn(address: str, prompts: list[str]) -> list[str]:
    """The answers of the synchronous client."""
    with lmstudio.Client(address) as client:
        model = client.llm.model("echo")
        return [model.respond(prompt).content for prompt in prompts]


async def answered_at_once(address: str, prompts: list[str], jobs: int) -> list[str]:
    """The answers of the asynchronous client."""
    answers = [""] * len(prompts)
    numbered = enumerate(prompts)

    async with lmstudio.AsyncClient(address) as client:
        model = await client.llm.model("echo")

        async def work() -> None:
            for number, prompt in numbered:
                answers[number] = (await model.respond(prompt)).content

        await asyncio.gather(*(work() for _ in range(jobs)))
    return answers


def main(port: str, jobs: int) -> None:
    """Answer all, and print."""
    address, prompts = f"127.0.0.1:{port}", sys.stdin.read().splitlines()
    answers = asyncio.run(answered_at_once(address, prompts, jobs)) if jobs else answered_in_turn(address, prompts)
    sys.stdout.write("\n".join(answers) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
