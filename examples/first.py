"""A first program: run it to send a task, then ``unspool run first.py --burst`` to have it done."""

from unspool import Spooler


@Spooler.task
def greet(name, greeting="Hello"):
    print(f"{greeting}, {name}!")
    return True


if __name__ == "__main__":
    print("sent:", greet("world", greeting="Good morning"))
