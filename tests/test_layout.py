"""The layout: aligned, without overlap, and with little waste."""

from __future__ import annotations

import pytest

from benchmarks.synthetic import LLAMA_1B, llama_shapes
from edgekit.arch import describe
from edgekit.bundle.layout import ALIGNMENT, plan_layout, rows_per_step
from edgekit.recipe import load_recipe, preset_names


@pytest.mark.parametrize("recipe", preset_names())
def test_units_are_aligned_disjoint_and_nearly_full(recipe: str) -> None:
    layout = plan_layout(describe(LLAMA_1B, dict(llama_shapes(LLAMA_1B))), load_recipe(recipe))
    ends = {"resident.bin": layout.vectors_bytes, "flash.bin": 0}
    unit = used = 0
    for m in layout.matrices:
        assert m.offset % ALIGNMENT == 0
        assert m.unit_stride % ALIGNMENT == 0
        assert m.offset >= ends[m.file]
        assert m.first_unit == unit
        assert rows_per_step(m) % m.rows_per_unit == 0
        for part in m.parts:
            assert part.codec.lut_rows == 0 or rows_per_step(m) % part.codec.lut_rows == 0
        ends[m.file] = m.offset + m.bytes
        unit += m.units
        used += m.rows * m.row_stride
    assert ends == {"resident.bin": layout.resident_bytes, "flash.bin": layout.flash_bytes}
    assert unit == layout.unit_count
    assert used / (layout.resident_bytes + layout.flash_bytes - layout.vectors_bytes) > 0.98


def test_a_bundle_holds_gate_up_and_down_of_its_neurons() -> None:
    layout = plan_layout(describe(LLAMA_1B, dict(llama_shapes(LLAMA_1B))), load_recipe("palette4"))
    ffn = next(m for m in layout.matrices if m.name == "layers.7.ffn")
    assert [(p.name, p.rows, p.cols, p.by_column) for p in ffn.parts] == [
        ("layers.7.ffn.gate", 5632, 2048, False),
        ("layers.7.ffn.up", 5632, 2048, False),
        ("layers.7.ffn.down", 5632, 2048, True),
    ]
    assert ffn.file == "flash.bin"
    assert ffn.row_stride == 3 * 1024
