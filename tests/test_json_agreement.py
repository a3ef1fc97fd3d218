"""Python and the runtime take the same texts for JSON, and so for a manifest."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.bundle import manifest
from edgekit.bundle.checksum import lane64
from edgekit.conversion import convert
from edgekit.errors import EdgekitError
from edgekit.runtime.model import plan_bundle
from edgekit.runtime.values import Options
from tests.conftest import DEMO

# What stands behind the key "extra" in an otherwise good manifest, and whether it is JSON.
VALUES: dict[str, tuple[bytes, bool]] = {
    "null": (b"null", True),
    "numbers": (b"[0, -0, 12, 1.5, -1e3, 2E+2, 3e-400, 1e308, 18446744073709551616]", True),
    "long numbers": (b"[1%se-400, 0.%s1, %s]" % (b"0" * 400, b"0" * 400, b"7" * 300), True),
    "strings": (b'["", "\\u00e9 \\n \\" \\\\ \\/", "\xc3\xa9 \xf0\x9f\x98\x80 \xef\xbf\xbe"]', True),
    "an escaped half of a surrogate pair": (b'"\\ud800"', True),
    "space": (b" \t\r\n[ 1 , {} ] ", True),
    "the same key in different objects": (b'[{"a": 1}, {"a": 2}]', True),
    "keys that differ in case": (b'{"a": 1, "A": 2, "": 3}', True),
    "brackets in strings": (b'"' + b"[" * 100 + b'"', True),
    "30 arrays in a row of 60": (b"[" + b"[1]," * 60 + b"[]]", True),
    "31 levels": (b"[" * 31 + b"]" * 31, True),
    "32 levels": (b"[" * 32 + b"]" * 32, False),
    "2000 levels": (b"[" * 2000 + b"]" * 2000, False),
    "NaN": (b"NaN", False),
    "Infinity": (b"[Infinity]", False),
    "-Infinity": (b"-Infinity", False),
    "nan": (b"nan", False),
    "a number beyond a double": (b"1e309", False),
    "a whole number beyond a double": (b"9" * 400, False),
    "a whole number of 5000 digits": (b"9" * 5000, False),
    "an encoded surrogate": (b'"\xed\xa0\x80"', False),
    "an encoded surrogate pair": (b'"\xed\xa0\xbd\xed\xb8\x80"', False),
    "an encoding longer than needed": (b'"\xc0\xaf"', False),
    "a code point beyond Unicode": (b'"\xf4\x90\x80\x80"', False),
    "a byte of no character": (b'"\xff"', False),
    "a character cut off": (b'"\xe2\x82"', False),
    "a byte order mark": (b"\xef\xbb\xbf1", False),
    "a duplicate key": (b'{"a": 1, "a": 1}', False),
    "a duplicate key far within": (b'[[{"b": {"a": 1, "c": 2, "a": 3}}]]', False),
    "an empty duplicate key": (b'{"": 1, "": 1}', False),
    "a duplicate key with an escape": (b'{"a": 1, "\\u0061": 1}', False),
    "an escape in a key": (b'{"\\u0061": 1}', False),
    "an escape in a key before space": (b'{"\\n" \n: 1}', False),
    "a control character": (b'"a\x01"', False),
    "a line break in a string": (b'"a\n"', False),
    "a NUL": (b"1\x00", False),
    "another space": (b"\x0c1", False),
    "a comma too many": (b"[1,]", False),
    "a comma too many in an object": (b'{"a": 1,}', False),
    "a comment": (b"1 // one", False),
    "single quotes": (b"'a'", False),
    "a bare key": (b"{a: 1}", False),
    "an unknown escape": (b'"\\x41"', False),
    "a short escape": (b'"\\u12"', False),
    "a plus sign": (b"+1", False),
    "a leading zero": (b"01", False),
    "a leading zero behind a sign": (b"-01", False),
    "no digit before the point": (b".5", False),
    "no digit behind the point": (b"1.", False),
    "no exponent": (b"1e", False),
    "hexadecimal": (b"0x10", False),
    "True": (b"True", False),
    "two values": (b"1 2", False),
    "nothing": (b"", False),
    "a string without an end": (b'"a', False),
    "brackets crossed": (b"[{]}", False),
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(DEMO, tmp_path_factory.mktemp("json") / "bundle", "f16").path


@pytest.fixture(scope="module")
def rest(bundle: Path) -> bytes:
    """The bundle's manifest without its first line."""
    return (bundle / "manifest.json").read_bytes()[manifest.FIRST_LINE :]


def taken(bundle: Path, rest: bytes) -> dict[str, bool]:
    """Whether each reader takes the bundle with this manifest."""
    (bundle / "manifest.json").write_bytes(f'{{"checksum":"{lane64(rest):016x}",\n'.encode() + rest)
    out = {"python": True, "runtime": True}
    for name, read in (("python", manifest.read), ("runtime", lambda path: plan_bundle(path, Options()))):
        try:
            read(bundle)
        except EdgekitError:
            out[name] = False
    return out


@pytest.mark.parametrize("name", VALUES)
def test_both_readers_take_the_same_values(bundle: Path, rest: bytes, name: str) -> None:
    value, good = VALUES[name]
    assert taken(bundle, b'"extra": ' + value + b", " + rest) == {"python": good, "runtime": good}


@pytest.mark.parametrize("version", ["1", "1.0", "1e0", "true", '"1"', "2", "null", "[1]"])
def test_both_readers_take_the_same_versions(bundle: Path, rest: bytes, version: str) -> None:
    old = b'"version": 1,'
    assert rest.count(old) == 1
    good = version == "1"
    assert taken(bundle, rest.replace(old, f'"version": {version},'.encode())) == {"python": good, "runtime": good}
