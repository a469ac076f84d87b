"""Is a difference between evaluations of the same clips one of networks, or chance?"""
