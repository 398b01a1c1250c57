from lmcli import Chat, llm

chat_history = {
  "messages": [
    { "role": "system", "content": "You are a helpful assistant." },
    { "role": "user", "content": "What is LM Studio?" }
  ]
}

print(llm().respond(Chat.from_history(chat_history)))
