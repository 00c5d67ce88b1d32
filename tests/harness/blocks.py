"""Tron blocks to feed a topic with: real ones in shape, varied from a number."""

import json
import random
import re
from typing import Any

from harness.environment import ROOT

_SAMPLE = json.loads((ROOT / "tests" / "data" / "tron_transaction.json").read_text(encoding="utf-8"))
_BLOCK_MILLISECONDS = 3000  # Tron makes a block every 3 s


def transaction_block(number: int) -> bytes:
    """Return block `number` (from 0 on) after the sample's, with one to all of its transactions, as compact JSON.

    The same number gives the same bytes: 1.9 to 12.7 KB, 7 KB on average. Each block's parent is the one before.
    """
    dice = random.Random(number)
    height = _SAMPLE["Header"]["Number"] + number
    chosen = dice.sample(_SAMPLE["Transactions"], dice.randint(1, len(_SAMPLE["Transactions"])))
    header = {
        **_SAMPLE["Header"],
        "Number": height,
        "Hash": _block_hash(height),
        "Timestamp": _SAMPLE["Header"]["Timestamp"] + number * _BLOCK_MILLISECONDS,
        "ParentHash": _block_hash(height - 1),
        "ParentNumber": height - 1,
        "TxTrieRoot": dice.randbytes(32).hex(),
        "TransactionsCount": len(chosen),
    }
    witness = {**_SAMPLE["Witness"], "Signature": dice.randbytes(65).hex()}
    nanoseconds = number * _BLOCK_MILLISECONDS * 1_000_000
    transactions = [_vary(transaction, index, nanoseconds, dice) for index, transaction in enumerate(chosen)]
    block = {**_SAMPLE, "Header": header, "Witness": witness, "Transactions": transactions}
    return json.dumps(block, separators=(",", ":")).encode()


def timed_block(number: int, produced: int, small: bool = False) -> bytes:
    """Return the sample as compact JSON of 12.7 KB (`small`: 440 B), with its time in nanoseconds since 1970.

    The hashes depend on `number`: one digit for another all over, so that the block compresses as well as a real one.
    """
    content = {key: _SAMPLE[key] for key in ("Chain", "Header")} if small else _SAMPLE
    digits = "0123456789abcdef"
    others = str.maketrans(digits, "".join(random.Random(number).sample(digits, len(digits))))
    text = json.dumps({"Produced": produced, **content}, separators=(",", ":"))
    return re.sub(r'"[0-9a-f]{16,}"', lambda value: value[0].translate(others), text).encode()


def _block_hash(height: int) -> str:
    """Return a block's hash, which on Tron begins with its number."""
    return f"{height:016x}{random.Random(height).randbytes(24).hex()}"


def _vary(transaction: dict[str, Any], index: int, nanoseconds: int, dice: random.Random) -> dict[str, Any]:
    """Return the transaction as another one, so many nanoseconds later."""
    header = transaction["TransactionHeader"]
    text = json.dumps(transaction)
    # The payer and the signature are in the raw data and the calls, too: replaced as text, they agree everywhere.
    for old in (header["Hash"], header["FeePayer"], *header["Signatures"]):
        text = text.replace(old, dice.randbytes(len(old) // 2).hex())
    varied: dict[str, Any] = json.loads(text)
    varied["TransactionHeader"]["Index"] = index
    for key in ("Expiration", "Timestamp", "Time"):
        varied["TransactionHeader"][key] += nanoseconds
    return varied
