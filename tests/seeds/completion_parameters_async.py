import lmcli as lms

async with lms.AsyncClient() as client:
    model = await client.llm.model()
    initial_text = "My name is"

    result = await model.complete(initial_text, config={
        "temperature": 0.6,
        "maxTokens": 50,
    })

    print(result)
