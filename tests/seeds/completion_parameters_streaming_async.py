import lmcli as lms

async with lms.AsyncClient() as client:
    model = await client.llm.model()
    initial_text = "My name is"

    prediction_stream = await model.complete_stream(initial_text, config={
        "temperature": 0.6,
        "maxTokens": 50,
    })

    async for fragment in prediction_stream:
        print(fragment.content, end="", flush=True)
    print()
