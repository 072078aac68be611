"""Measuring and showing: roll-outs, intervals, tables, curves, pictures."""
