"""Experiments with prompts and trainings: which arm judges better than the baseline, and is the difference real?"""
