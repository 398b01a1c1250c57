import lmcli as lms

model = lms.llm()
initial_text = "My name is"

prediction_stream = model.complete_stream(initial_text, config={
    "temperature": 0.6,
    "maxTokens": 50,
})

for fragment in prediction_stream:
    print(fragment.content, end="", flush=True)
print()
