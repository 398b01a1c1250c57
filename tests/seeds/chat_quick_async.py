import lmcli as lms

async with lms.AsyncClient() as client:
    model = await client.llm.model()
    print(await model.respond("What is the meaning of life?"))
