from hypothesis import settings

# The same examples on every machine, and no time limit an example: a busy machine must not fail a test.
settings.register_profile("qcircuits", deadline=None, max_examples=60, database=None, derandomize=True)
settings.load_profile("qcircuits")
