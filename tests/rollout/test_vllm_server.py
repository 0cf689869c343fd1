"""The client of vLLM servers, against a server that takes notes; no vLLM is needed."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lgrpo_lightning.policy import LoRASettings
from lgrpo_lightning.policy.loading import add_lora
from lgrpo_lightning.rollout import SamplingSettings, VLLMSampler, VLLMSettings
from tests.rollout.tiny import EOS, PROMPTS, letters, prompts, tiny_policy

GOOD = {
    "model_config": {
        "logprobs_mode": "processed_logprobs",
        "generation_config": "vllm",
        "hf_overrides": {"tie_word_embeddings": False},
    },
    "device_config": {"device": "cpu"},
}


class Notes(ThreadingHTTPServer):
    """Answers like vLLM 0.32; notes what it was asked and which weights it was shown."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.info, self.asked, self.weights, self.folders = GOOD, [], [], []
        self.refusals = {}

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.reply({"vllm_config": self.server.info})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, body))
        if self.path == "/collective_rpc":
            folder = Path(body["kwargs"]["weights_path"])
            self.server.folders.append(folder)
            self.server.weights.append(load_file(folder / "model.safetensors"))
        if self.path != "/v1/completions":
            return self.reply({})
        # Completion i of a prompt of n tokens: i + 1 tokens, n, n + 1, …; the last is cut off.
        start = len(body["prompt"])
        choices = [
            {
                "index": i,
                "token_ids": [start + t for t in range(i + 1)],
                "logprobs": {"token_logprobs": [-0.5 * (t + 1) for t in range(i + 1)]},
                "finish_reason": "length" if i + 1 == body["n"] else "stop",
            }
            for i in reversed(range(body["n"]))
        ]
        return self.reply({"choices": choices})

    def reply(self, answer):
        code, text = self.server.refusals.get(self.path, (200, json.dumps(answer)))
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text.encode())


@pytest.fixture
def server():
    with Notes() as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def sampler(*servers, **options):
    settings = VLLMSettings(mode="server", urls=[server.url for server in servers], **options)
    return VLLMSampler(letters(), [EOS], None, settings)


def test_completions_by_token_with_the_servers_log_probs(server):
    settings = SamplingSettings(max_new_tokens=7, temperature=0.5, top_p=0.9, stop=["ab"])
    out = sampler(server).sample(tiny_policy(), *prompts(*PROMPTS), 3, settings, 4)
    assert out.ids.tolist() == [
        [[n, 0, 0], [n, n + 1, 0], [n, n + 1, n + 2]] for n in map(len, PROMPTS)
    ]
    assert out.lengths.tolist() == [[1, 2, 3]] * 3
    assert out.logprobs.tolist() == [[[-0.5, 0, 0], [-0.5, -1, 0], [-0.5, -1, -1.5]]] * 3
    assert out.finished.tolist() == [[True, True, False]] * 3
    asked = [body for path, body in server.asked if path == "/v1/completions"]
    assert len({body["seed"] for body in asked}) == 3
    for body in asked:
        assert PROMPTS[[len(p) for p in PROMPTS].index(len(body["prompt"]))]
        assert body["stop_token_ids"] == [EOS]
        assert (body["n"], body["max_tokens"], body["temperature"]) == (3, 7, 0.5)
        assert (body["top_p"], body["stop"], body["logprobs"]) == (0.9, ["ab"], 0)
        assert body["ignore_eos"]
        assert body["return_token_ids"]


def test_what_is_drawn_depends_on_the_seed_and_the_prompts_place(server):
    engine = sampler(server)

    def seeds(seed, count):
        server.asked.clear()
        engine.sample(tiny_policy(), *prompts(*["ab"] * count), 2, SamplingSettings(), seed)
        return sorted(b["seed"] for path, b in server.asked if path == "/v1/completions")

    two = seeds(1, 2)
    assert seeds(1, 2) == two
    assert set(two) < set(seeds(1, 3))
    assert not set(two) & set(seeds(2, 2))


@pytest.mark.parametrize("kind", ["full", "tied", "lora"])
def test_every_server_is_given_the_policys_weights(kind, tmp_path, server):
    policy = tiny_policy(tie_word_embeddings=kind == "tied")
    expected = {name: weight.clone() for name, weight in policy.state_dict().items()}
    if kind == "lora":
        policy = add_lora(policy, LoRASettings(r=2, dropout=0.0))
        with torch.no_grad():
            for name, weight in policy.named_parameters():
                if "lora_B" in name:
                    weight.normal_()
        merged = add_lora(tiny_policy(), LoRASettings(r=2, dropout=0.0))
        merged.load_state_dict(policy.state_dict())
        expected = merged.merge_and_unload().state_dict()
    before = {name: weight.clone() for name, weight in policy.state_dict().items()}
    with Notes() as second:
        thread = threading.Thread(target=second.serve_forever, args=[0.01])
        thread.start()
        sampler(server, second, weights_folder=str(tmp_path)).sync(policy)
        second.shutdown()
        thread.join()
    for each in (server, second):
        (weights,) = each.weights
        assert weights.keys() == expected.keys()
        for name, weight in weights.items():
            torch.testing.assert_close(weight, expected[name], atol=1e-6, rtol=1e-5)
        assert each.folders[0].parent == tmp_path
        assert [path for path, _ in each.asked] == ["/collective_rpc", "/reset_prefix_cache"]
    assert not list(tmp_path.iterdir())  # nothing is left
    for name, weight in policy.state_dict().items():
        torch.testing.assert_close(weight, before[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("model_config", {"logprobs_mode": "raw_logprobs"}, "--logprobs-mode processed_logprobs"),
        ("model_config", {"generation_config": "auto"}, "--generation-config vllm"),
        ("model_config", {"hf_overrides": None}, "--hf-overrides .*tie_word_embeddings"),
    ],
)
def test_a_server_with_other_settings_is_refused(server, part, change, message):
    server.info = GOOD | {part: GOOD[part] | change}
    with pytest.raises(
        ValueError, match=f"{server.url} would not sample .* start it with {message}"
    ):
        sampler(server).sync(tiny_policy(tie_word_embeddings=True))
    assert not server.weights


def test_only_tied_heads_on_cpus_have_to_be_untied(server):
    server.info = GOOD | {"model_config": GOOD["model_config"] | {"hf_overrides": {}}}
    sampler(server).sync(tiny_policy(tie_word_embeddings=False))
    server.info |= {"device_config": {"device": "cuda"}}
    sampler(server).sync(tiny_policy(tie_word_embeddings=True))


@pytest.mark.parametrize(
    ("path", "code", "message"),
    [
        ("/server_info?config_format=json", 404, "start it with VLLM_SERVER_DEV_MODE=1"),
        ("/collective_rpc", 500, "/collective_rpc answered 500: out of memory"),
        ("/v1/completions", 400, "/v1/completions answered 400: out of memory"),
    ],
)
def test_what_a_server_refuses_is_said(server, path, code, message):
    server.refusals = {path: (code, "out of memory")}
    with pytest.raises(ValueError, match=message):
        sampler(server).sample(tiny_policy(), *prompts("a"), 2, SamplingSettings(), 0)


def test_a_completion_that_was_given_up_is_an_error(server):
    choice = {"index": 0, "token_ids": [], "logprobs": None, "finish_reason": "abort"}
    server.refusals = {"/v1/completions": (200, json.dumps({"choices": [choice]}))}
    with pytest.raises(ValueError, match="ended a completion by 'abort'"):
        sampler(server).sample(tiny_policy(), *prompts("a"), 1, SamplingSettings(), 0)


def test_no_server_at_the_address():
    settings = VLLMSettings(mode="server", urls=["http://127.0.0.1:9"])
    with pytest.raises(ValueError, match=r"no answer from the vLLM server at http://127.0.0.1:9/"):
        VLLMSampler(letters(), [EOS], None, settings).sync(tiny_policy())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "remote"}, "vllm.mode must be one of .* got 'remote'"),
        ({"memory": 0.0}, r"vllm.memory must be in \(0, 1\], got 0.0"),
        ({"max_model_len": 1}, "vllm.max_model_len must be at least 2, got 1"),
        ({"sleep_level": 3}, "vllm.sleep_level must be 0, 1 or 2, got 3"),
        ({"timeout": 0}, "vllm.timeout must be above 0, got 0"),
        ({"mode": "server"}, "vllm.urls must name one"),
        ({"mode": "server", "urls": ["host:8000"]}, "'host:8000' is no address"),
        ({"urls": ["http://a"]}, "vllm.urls is .* no effect on mode 'colocate'"),
        ({"weights_folder": "w"}, "vllm.weights_folder is 'w', which has no effect"),
        (
            {"mode": "server", "urls": ["http://a"], "sleep_level": 1},
            "vllm.sleep_level is 1, which has no effect on mode 'server'",
        ),
    ],
)
def test_settings_that_contradict(options, message):
    with pytest.raises(ValueError, match=message):
        VLLMSettings(**options)
