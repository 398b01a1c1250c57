import lmcli as lms

async with lms.AsyncClient() as client:
    model = await client.llm.model()
    chat = lms.Chat("You are a resident AI philosopher.")
    chat.add_user_message("What is the meaning of life?")

    result = await model.respond(chat, config={
        "temperature": 0.6,
        "maxTokens": 50,
    })

    print("Model used:", result.model_info.display_name)
    print("Predicted tokens:", result.stats.predicted_tokens_count)
    print("Time to first token (seconds):", result.stats.time_to_first_token_sec)
    print("Stop reason:", result.stats.stop_reason)
