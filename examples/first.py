"""A first program, which sends a task. ``unspool run first.py --burst`` then runs the task."""

from unspool import Spooler


@Spooler.task
def greet(name, greeting="Hello"):
    print(f"{greeting}, {name}!")
    return True


if __name__ == "__main__":
    print("sent:", greet("world", greeting="Good morning"))
