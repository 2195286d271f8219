"""Fit one model on all tasks, save it, load it, predict new rows.

python examples/houses.py        # makes my.csv and new.csv
python examples/fit_predict.py
"""

import polytask

suite = polytask.Suite.from_table("my.csv", ["price", "rooms", "sold"])
MLP = polytask.load_system("mlp")
learner = MLP(balancer="upgrad", training=polytask.Training(batch=32, epochs=30))
learner.fit(suite)
for task, scores in learner.score(suite, "test").items():
    print(task, {name: round(value, 3) for name, value in scores.items()})

learner.save_pretrained("model")
model = polytask.load("model")
print(model.predict("new.csv", ["price", "sold"]))
