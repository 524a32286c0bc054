"""Queries that always run: a grammar allows nothing but SELECTs from one table and its columns.

python examples/sql_grammar.py
"""

from __future__ import annotations

import os
import sqlite3

from chatplan import pipeline

MODEL = os.environ.get("CHATPLAN_MODEL", "HuggingFaceTB/SmolLM2-135M-Instruct")
GRAMMAR = r"""
start: "SELECT " columns " FROM books" where? order? limit?
columns: "*" | column (", " column)*
where: " WHERE " condition (" AND " condition)*
condition: text " = " TEXT | number (" = " | " < " | " > ") INT
order: " ORDER BY " column " DESC"?
limit: " LIMIT " INT
column: text | number
text: "title" | "author"
number: "year" | "pages"
TEXT: /'[A-Z][A-Za-z]{0,9}( [A-Z][a-z]{1,9})?'/
INT: /[1-9][0-9]{0,3}/
"""
BOOKS = [
    ("Emma", "Jane Austen", 1815, 474),
    ("Persuasion", "Jane Austen", 1817, 249),
    ("Dracula", "Bram Stoker", 1897, 418),
]
SHOWN = {
    "The titles of all books.": "SELECT title FROM books",
    "The books by Mary Shelley.": "SELECT * FROM books WHERE author = 'Mary Shelley'",
    "The titles of books before 1700.": "SELECT title FROM books WHERE year < 1700",
}
QUESTIONS = ["The books by Jane Austen.", "Books with more than 400 pages."]


def main() -> None:
    chat = pipeline("chat", model=MODEL, temperature=0, max_tokens=60)
    table = sqlite3.connect(":memory:")
    table.execute("CREATE TABLE books (title, author, year, pages)")
    table.executemany("INSERT INTO books VALUES (?, ?, ?, ?)", BOOKS)
    messages = [{"role": "system", "content": "Write an SQL query for the table books(title, author, year, pages)."}]
    for question, query in SHOWN.items():
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": query}]
    for question in QUESTIONS:
        answer = chat([*messages, {"role": "user", "content": question}], guided_grammar=GRAMMAR)
        # It runs, whatever the model understood of the question.
        print(f"{question}\n  {answer.text}")
        for row in table.execute(answer.text):
            print("  ", row)


if __name__ == "__main__":
    main()
