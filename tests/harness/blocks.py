"""Blocks to feed a topic with, each made from its number: Tron's, shaped as real ones, and a little of Solana's."""

import json
import random
import re
from typing import Any

from harness.environment import ROOT

_SAMPLE = json.loads((ROOT / "tests" / "data" / "tron_transaction.json").read_text(encoding="utf-8"))
_BLOCK_MILLISECONDS = 3000  # Tron makes a block every 3 s
SLOT = 380_000_000  # of Solana, early in 2026
_RAYDIUM = bytes.fromhex("4bd949c43602c33f207790ed16a3524ca1b9975cf121a2a90cffec7df8b68acd")  # an exchange's program


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


def proto_block(number: int) -> bytes:
    """Return some fields of the same block as the vendor's `*.proto` topics have it: a serialised BlockMessage.

    Every fourth has only those that are text or a small number: its bytes happen to be valid UTF-8.
    """
    block = json.loads(transaction_block(number))
    header = block["Header"]
    chain = _field(1, bytes.fromhex(block["Chain"]["ChainId"]))
    count = _field(9, header["TransactionsCount"])
    if number % 4 == 3:
        return _field(1, chain) + _field(2, count)
    whole = _field(1, header["Number"]) + _field(2, bytes.fromhex(header["Hash"])) + _field(3, header["Timestamp"])
    message = _field(1, chain) + _field(2, whole + count)
    for transaction in block["Transactions"]:
        inner = transaction["TransactionHeader"]
        message += _field(4, _field(1, _field(1, bytes.fromhex(inner["Hash"])) + _field(3, inner["Index"])))
    return message


def proto_trades(number: int) -> bytes:
    """Return a block of Solana's trades, with some fields of each: a serialised DexParsedBlockMessage.

    One address in four begins with a zero byte, which base58 writes as a 1 of its own.
    """
    dice = random.Random(number)

    def address() -> bytes:
        return (b"" if dice.randrange(4) else b"\0") + dice.randbytes(32)

    slot, hash_ = _field(1, SLOT + number), _field(2, address()[:32])
    message = _field(1, slot + hash_ + _field(6, 1_767_000_000 + number))
    for index in range(1, dice.randint(2, 6)):
        sides = [_field(side, _field(1, dice.randrange(10**12))) for side in (4, 5)]  # bought and sold
        trade = _field(2, _field(1, _RAYDIUM) + _field(2, b"raydium_amm")) + b"".join(sides)
        header = _field(1, 5000) + _field(2, address()[:32])  # the fee and who pays it
        message += _field(2, _field(1, index) + _field(2, dice.randbytes(64)) + _field(4, header) + _field(5, trade))
    return message


def _field(number: int, value: int | bytes) -> bytes:
    """Return a field of a protobuf message: a whole number from 0 on, or bytes, such as those of an inner message."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    """Return a number as protobuf does: seven bits a byte, the lowest first, the top bit set on all but the last."""
    return bytes([number & 127 | 128]) + _varint(number >> 7) if number > 127 else bytes([number])


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
