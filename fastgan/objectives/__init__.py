"""Losses, penalties and games: functions of logits and networks."""

from fastgan.objectives.games import GAMES, Game
from fastgan.objectives.penalties import gradient_penalty, r1

__all__ = ["GAMES", "Game", "gradient_penalty", "r1"]
