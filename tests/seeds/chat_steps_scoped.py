import lmcli as lms

with lms.Client() as client:
    model = client.llm.model("qwen2.5-7b-instruct")

    chat = lms.Chat("You are a resident AI philosopher.")
    chat.add_user_message("What is the meaning of life?")

    result = model.respond(chat)

    print(result)
