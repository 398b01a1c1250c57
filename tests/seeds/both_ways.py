import lmcli as lm

llm = lm.llm()

prediction = llm.respond_stream("What is LM Studio?")
for token in prediction:
    print(token, end="", flush=True)

response = llm.respond("What is LM Studio?")
print(response)
