"""Clean rows of our own, GSM8K-like and with LaTeX, as many as wanted: every number and name comes from the seed."""

import random

NAMES = [
    "Ada",
    "Ben",
    "Cleo",
    "Dev",
    "Emma",
    "Finn",
    "Gus",
    "Hana",
    "Ivo",
    "Jun",
    "Kim",
    "Lea",
    "Max",
    "Nora",
    "Omar",
    "Pia",
    "Quin",
    "Rosa",
    "Sam",
    "Tess",
    "Uma",
    "Vik",
    "Wes",
    "Yara",
]
THINGS = [
    "apples",
    "books",
    "candles",
    "drums",
    "eggs",
    "flags",
    "gloves",
    "hats",
    "jars",
    "kites",
    "lamps",
    "maps",
    "nails",
    "pens",
    "quilts",
    "rings",
]
PLACES = ["market", "station", "library", "harbour", "bakery", "garden", "museum", "workshop", "stadium", "castle"]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


def word_problem(rng: random.Random) -> dict:
    name, other = rng.sample(NAMES, 2)
    thing, place, day = rng.choice(THINGS), rng.choice(PLACES), rng.choice(DAYS)
    boxes, each, given = rng.randint(3, 40), rng.randint(3, 60), rng.randint(2, 9)
    price = rng.randint(2, 90)
    total = boxes * each
    left = total - given
    return {
        "question": f"On {day} {name} carries {boxes} boxes of {thing} to the {place}, with {each} {thing} in each "
        f"box. {name} gives {given} {thing} to {other} and sells the rest for ${price} "
        f"apiece. How much money does {name} get?",
        "solution": f"There are {boxes}*{each}={total} {thing} at first.\n"
        f"After the gift {total}-{given}={left} {thing} are left.\n"
        f"They bring {left}*{price}=${left * price}.\n#### {left * price}",
        "answer": str(left * price),
    }


def equation(rng: random.Random) -> dict:
    a, b, root = rng.randint(2, 60), rng.randint(2, 400), rng.randint(2, 900)
    right = a * root + b
    name = rng.choice(NAMES)
    return {
        "question": f"{name} writes $\\frac{{{a}x + {b}}}{{{right}}} = 1$ on the board of room {rng.randint(1, 999)}. "
        f"What is the value of $x$ that solves the equation of {name}?",
        "solution": f"Multiplying both sides by {right} gives ${a}x + {b} = {right}$.\nSo ${a}x = {right} - {b}$, "
        f"and we divide by {a}.\n"
        f"The solution is therefore $x = \\boxed{{{root}}}$.",
        "answer": str(root),
    }


def clean(count: int, seed: int = 0) -> list[dict]:
    """`count` different rows with question, answer and solution, without any flaw."""
    rng = random.Random(seed)
    rows, seen = [], set()
    while len(rows) < count:
        row = rng.choice((word_problem, equation))(rng)
        if row["question"] not in seen:
            seen.add(row["question"])
            rows.append(row)
    return rows
