import lmcli as lms

async with lms.AsyncClient() as client:
    model = await client.llm.model()
    chat = lms.Chat("You are a resident AI philosopher.")
    chat.add_user_message("What is the meaning of life?")

    prediction_stream = await model.respond_stream(chat, config={
        "temperature": 0.6,
        "maxTokens": 50,
    })

    async for fragment in prediction_stream:
        print(fragment.content, end="", flush=True)
    print()
