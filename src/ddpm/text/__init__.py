"""How do texts become the condition of a network?"""
