"""Description and comparison of networks that are built but not run.

target.py          finds a network by its name, its run or its export
describe.py        one network, layer by layer
compare.py         networks side by side, and three ways to connect a layer
list_networks.py   the networks by name
tables.py          tables that fit the width of the terminal
"""
