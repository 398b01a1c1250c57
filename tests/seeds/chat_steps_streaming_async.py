import lmcli as lms

async with lms.AsyncClient() as client:
    model = await client.llm.model("qwen2.5-7b-instruct")

    chat = lms.Chat.from_history({
        "messages": [
            { "role": "system", "content": "You are a resident AI philosopher." },
            { "role": "user", "content": "What is the meaning of life?" },
        ]
    })

    prediction_stream = await model.respond_stream(chat)

    async for fragment in prediction_stream:
        print(fragment.content, end="", flush=True)
    print()

    result = prediction_stream.result()

    print("Model used:", result.model_info.display_name)
    print("Predicted tokens:", result.stats.predicted_tokens_count)
    print("Time to first token (seconds):", result.stats.time_to_first_token_sec)
    print("Stop reason:", result.stats.stop_reason)
