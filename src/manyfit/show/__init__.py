"""What people see of a search while it runs. It listens to events; nothing here can stop or slow a search.

`board.py` takes note of what happens, in the thread of the search. `screen.py` lays it out in at most 16 lines.
`progress.py` shows that: at a terminal twice a second from a thread of its own, else as one line per trial.
"""
