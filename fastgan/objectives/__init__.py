"""Losses, penalties and games: functions of logits and networks."""

from fastgan.objectives.games import GAMES, Defaults, Game
from fastgan.objectives.penalties import PENALTIES, dragan, gradient_penalty, r1, r2, zero_centered_gp

__all__ = [
    "GAMES",
    "PENALTIES",
    "Defaults",
    "Game",
    "dragan",
    "gradient_penalty",
    "r1",
    "r2",
    "zero_centered_gp",
]
