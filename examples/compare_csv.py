"""One model or three? Compare on a table of your own, in five lines.

python examples/houses.py       # makes my.csv
python examples/compare_csv.py
"""

import polytask

report = polytask.compare("my.csv", targets=["price", "rooms", "sold"])
report.print()
report.to_html("report.html")
report.to_json("report.json")
