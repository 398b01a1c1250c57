import lmcli as lms

model = lms.llm()
chat = lms.Chat("You are a resident AI philosopher.")
chat.add_user_message("What is the meaning of life?")

prediction_stream = model.respond_stream(chat, config={
    "temperature": 0.6,
    "maxTokens": 50,
})

for fragment in prediction_stream:
    print(fragment.content, end="", flush=True)
print()
