"""`pibot.pyz doctor`: small checks of this machine, each with the command that mends what is wrong.

A check is a function of the surroundings (and of a role's settings) that yields findings. It may
fail, hang or have nothing to say: the runner runs each beside the others, with a time limit.
"""
