"""A result that can be handed on: weights, config, and a card that says what they are."""
