"""Tests of run.py without a peer, a network or a model: rows, shapes, tables out of canned measurements.  python -m unittest run_test"""

import contextlib
import io
import json
import pathlib
import re
import sys
import tempfile
import unittest
from unittest import mock

import run
import shapes

FACTS = {"processor": "A processor", "cores": 2, "chiasm": "amx, 2 threads", "date": "2026-11-21", "rounds": 3, "command": "sh bench/peers/run.sh --rounds 3",
         "versions": {"torch": "2.15.0", "openvino": "2026.4.1"},
         "limits": {"threads": 2, "fma_avx512": 400.0, "amx_bf16": 6000.0, "dram_1_stream": 25.0, "dram_8_streams": 38.0}}


def rounds(*means):
    return [{"mean": mean, "best": 0.9 * mean} for mean in means]


def measured():
    encode = run.Row("vit_l_336", "encode", "bf16", run.TOWER["bf16"], chiasm=rounds(0.21, 0.20, 0.40))
    encode.others = {("OpenVINO", "bf16"): rounds(0.40, 0.44, 0.42), ("OpenVINO", "int8"): rounds(0.35, 0.36, 0.34), ("llama.cpp", "f16"): []}
    decode = run.Row("llama_1b", "decode_128", "q4_0", [("llama.cpp", "q4_0")], chiasm=rounds(0.0185))
    decode.others = {("llama.cpp", "q4_0"): rounds(0.037)}
    alone = run.Row("llama_1b", "prefill_512", "q8_0", [("llama.cpp", "q8_0")], "avx2")
    alone.others = {("llama.cpp", "q8_0"): rounds(4.0)}
    begin = run.Row("start", "first_token", "q4_0", [("llama.cpp", "q4_0")])
    begin.chiasm = [{"mean": 0.25, "best": 0.25, "memory": 7e8, "file": 6.4e8}]
    begin.others = {("llama.cpp", "q4_0"): [{"mean": 0.5, "best": 0.5, "memory": 12e8, "file": 6.4e8}]}
    return [encode, decode, alone, begin]


class Rows(unittest.TestCase):
    def test_names_are_unique_and_their_parts_known(self):
        every = run.rows()
        self.assertEqual(len({row.name for row in every}), len(every))
        for row in every:
            self.assertIn(row.model, run.MODELS)
            self.assertTrue(row.peers)
            for engine, _ in row.peers:
                self.assertTrue((run.HERE / run.PEERS[engine]).is_file())

    def test_the_goals_have_rows(self):
        names = {row.name for row in run.rows()}
        for name in ("vit_l_336/encode/bf16", "vit_b_224/encode/bf16", "llama_1b/prefill_512/q4_0", "llama_1b/prefill_128/bf16", "llama_1b/decode_128/q4_k_m",
                     "llama_1b/decode_128/q8_0", "qwen2_0.5b/decode_128/q4_0", "llama_7b/decode_128/q4_0", "llava_1b/first_token/q4_0", "llava_1b/answer/q4_0",
                     "start/first_token/q4_0", "llama_1b/prefill_512/q4_0/avx512", "llama_1b/decode_128/q4_0/avx2"):
            self.assertIn(name, names)

    def test_goals_are_named_as_rows(self):
        names = {row.name for row in run.rows()} | {f"llava_1b/both/{weights}" for weights in run.MEETINGS["llava_1b"]}
        self.assertLessEqual(set(run.GOALS), names)

    def test_benchmarks_are_named_as_in_bench_models(self):
        row = run.Row("llama_1b", "prefill_128", "q4_0", [])
        self.assertEqual(row.benchmark, "llama_1b/prefill_128/weights:q4_0/compute:bf16/")
        self.assertEqual(run.Row("llama_1b", "prefill_128", "int8", []).benchmark, "llama_1b/prefill_128/weights:q8_row/compute:i8/")
        source = (run.ROOT / "bench/models/llama_bench.cpp").read_text()
        for work in run.LLM_WORKS:
            self.assertIn(f'"{work}"', source)
        for model in ("llama_1b", "qwen2_0.5b", "llama_7b"):
            self.assertIn(f'"{model}"', source)

    def test_the_best_peer_is_the_fastest_that_was_measured(self):
        self.assertEqual(measured()[0].best_peer(), ("OpenVINO", "int8"))
        self.assertIsNone(run.Row("llama_1b", "prefill_128", "q4_0", []).best_peer())


class Shapes(unittest.TestCase):
    def test_files_have_the_sizes_of_published_ones(self):
        llama = shapes.LLM["llama_1b"]
        self.assertAlmostEqual(sum(o * i for _, o, i in llama.matrices()) / 1e9, 1.034, places=3)  # 1.1 B with the embeddings
        table = llama.vocabulary * shapes.row_bytes("q4_0", llama.width)
        self.assertAlmostEqual((llama.bytes("q4_0") + table) / 1e6, 635.6, places=0)  # the file of 637 MB

    def test_formats_give_way_where_rows_are_no_multiple(self):
        qwen, llama = shapes.LLM["qwen2_0.5b"], shapes.LLM["llama_1b"]
        self.assertEqual(shapes.block_format(qwen, "q4_k_m", "blk.5.attn_q", 896), "q5_0")
        self.assertEqual(shapes.block_format(qwen, "q4_0", "output", 896), "q8_0")
        self.assertEqual(shapes.block_format(llama, "q4_k_m", "blk.0.ffn_down", 5632), "q6_k")
        self.assertEqual(shapes.block_format(llama, "q4_k_m", "blk.2.ffn_down", 5632), "q4_k")


class Tables(unittest.TestCase):
    def test_a_line_has_both_figures_their_ratio_and_the_share(self):
        lines = run.table(measured(), FACTS).splitlines()
        self.assertIn("PyTorch 2.15.0, OpenVINO 2026.4.1; `sh bench/peers/run.sh --rounds 3`", lines[0])
        self.assertIn("AMX bf16 6000 GF/s", lines[2])
        line = next(line for line in lines if line.startswith("| ViT-L/14-336"))
        self.assertEqual([cell.strip() for cell in line.split("|")[3:8]],
                         ["210 ms", "OpenVINO int8 350 ms", "1.67 x", f"{0.34 / 0.20:.2f} x", "OpenVINO bf16 420 ms"])
        self.assertIn(f"{100 * shapes.VIT['vit_l_336'].flops * 1e-9 / 0.21 / 6000:.0f} % of AMX bf16", line)
        line = next(line for line in lines if "next token" in line)
        self.assertIn("54.1 tok/s", line)
        self.assertIn("2.00 x", line)
        self.assertIn("% of DRAM", line)
        self.assertTrue(line.endswith("| 1.2 x, 85 % |"), line)

    def test_a_row_without_our_measurement_shows_the_peers(self):
        line = next(line for line in run.table(measured(), FACTS).splitlines() if "avx2" in line)
        self.assertIn("| - | llama.cpp q8_0 128 tok/s |  |  |", line)

    def test_starts_have_a_table_of_their_own(self):
        text = run.table(measured(), FACTS)
        self.assertIn("| chiasm | q4_0 | 0.25 s | 700 MB | 1.09 x | 0.25 s, 1.1 x |", text)
        self.assertIn("| llama.cpp q4_0 | q4_0 | 0.50 s | 1200 MB | 1.88 x |  |", text)

    def test_llava_has_a_line_for_both_of_its_works(self):
        rows = [row for row in run.rows() if row.name in ("llava_1b/first_token/q4_0", "llava_1b/answer/q4_0")]
        for row, seconds in zip(rows, (0.7, 1.2)):
            row.chiasm, row.others = rounds(seconds), {("OpenVINO", "int4"): rounds(2 * seconds), ("llama.cpp", "q4_0"): []}
        line = run.table(rows, FACTS).splitlines()[-1]
        self.assertIn("both | q4_0 | 1900 ms | OpenVINO int4 3800 ms | 2.00 x |", line)
        self.assertTrue(line.endswith("| 2.0 x |"), line)
        self.assertEqual(len(run.table(rows[1:], FACTS).splitlines()), len(run.table(rows, FACTS).splitlines()) - 2)

    def test_the_json_file_gives_the_same_table(self):
        rows = measured()
        facts = {**FACTS, "rows": [run.record(row, FACTS["limits"]) for row in rows]}
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder, "a.json")
            file.write_text(json.dumps(facts))
            self.assertEqual(self.printed("--table", str(file)).strip(), run.table(rows, FACTS).strip())

    def printed(self, *arguments):
        text = io.StringIO()
        with mock.patch.object(sys, "argv", ["run.py", *arguments]), contextlib.redirect_stdout(text):
            run.main()
        return text.getvalue()

    def test_lists_take_a_pattern(self):
        self.assertEqual(self.printed("--list", "--rows", "llama_7b").split(), ["llama_7b/decode_128/q4_0", "llama_7b/decode_128/q4_k_m"])
        self.assertEqual(self.printed("--programs", "--rows", "llama_7b|vit_b").split(), ["limits_bench", "vit_bench", "llama_bench"])
        self.assertEqual(self.printed("--engines", "--rows", "qformer").splitlines(), ["PyTorch"])
        self.assertEqual(self.printed("--engines", "--rows", "vit_b_224/encode/(bf16|int8)$", "--peers", "int8| f16").splitlines(), ["llama.cpp", "OpenVINO", "ONNX Runtime"])


class Results(unittest.TestCase):
    def test_chiasm_is_read_from_google_benchmark(self):
        output = {"benchmarks": [{"name": "llama_1b/decode_128/weights:q4_0/compute:bf16/min_time:1.000/real_time", "real_time": 20.0, "time_unit": "ms",
                                  "best_ms": 18.5, "label": "amx, 2 threads"}]}
        chiasm, row = run.Chiasm(".", 2), measured()[1]
        row.chiasm = []
        with mock.patch.object(chiasm, "run", return_value=json.dumps(output)) as called:
            chiasm.measure([row])
        self.assertEqual(row.chiasm, [{"mean": 0.02, "best": 0.0185}])
        self.assertTrue(re.match(called.call_args.args[1].removeprefix("--benchmark_filter="), output["benchmarks"][0]["name"]))
        self.assertEqual(chiasm.machine, "amx, 2 threads")

    def test_what_fails_is_left_out(self):
        failures = []

        def ends():
            raise SystemExit("ended with status -4")

        with contextlib.redirect_stderr(io.StringIO()):
            self.assertFalse(run.attempt(ends, failures))
            self.assertTrue(run.attempt(lambda: None, failures))
        self.assertEqual(failures, ["ended with status -4"])


if __name__ == "__main__":
    unittest.main()
