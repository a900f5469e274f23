"""Handlers of one's own: what is in HANDLERS is called with the connection, the message as a dict, and the director."""

import secrets
from typing import Any


async def roll_dice(connection: Any, message: dict[str, Any], director: Any) -> None:
    """`{"type": "rollDice"}` is answered to its sender, and told to the channel `dice`."""
    rolled = secrets.randbelow(6) + 1
    director.send_message(connection, {"type": "diceRolled", "payload": rolled})
    await director.announce({"payload": rolled}, "dice")


HANDLERS = {"rollDice": roll_dice}
