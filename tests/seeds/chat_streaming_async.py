import lmcli as lms

async with lms.AsyncClient() as client:
    model = await client.llm.model()

    async for fragment in model.respond_stream("What is the meaning of life?"):
        print(fragment.content, end="", flush=True)
    print()
