"""What others can write, made up at random: nothing of it may be a crash, a traceback, or more memory than its bound."""
