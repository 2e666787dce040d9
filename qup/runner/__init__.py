"""The verbs: what happens to machines, one module for each thing that can be done."""
