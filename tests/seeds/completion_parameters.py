import lmcli as lms

model = lms.llm()
initial_text = "My name is"

result = model.complete(initial_text, config={
    "temperature": 0.6,
    "maxTokens": 50,
})

print(result)
