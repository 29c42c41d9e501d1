"""Claims of the papers that their tables do not show here: which choice decides?"""
