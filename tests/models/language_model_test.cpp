// OPT, MPT, MosaicGPT and GPT-NeoX as machines: pieces, batches, threads, tiers, names, limits, senseless configurations. Their numbers are held
// against the reference in golden_test.cpp.
#include "support/catch.hpp"
#include "support/near.hpp"
#include "support/random_weights.hpp"

#include <chiasm/kernels/dispatch.hpp>
#include <chiasm/models/text_model.hpp>
#include <chiasm/pipelines/generation.hpp>

#include <functional>
#include <map>

using namespace chiasm;

namespace {

struct Described {
  std::string config;
  std::function<void(RandomWeights&)> weights;
};

void matrix(RandomWeights& random, const std::string& name, std::size_t out, std::size_t in, bool bias = false) {
  random.add(name + ".weight", Shape{out, in}, 1.5 / std::sqrt(static_cast<double>(in)));
  if (bias) random.add(name + ".bias", Shape{out}, 0.2);
}
void norm(RandomWeights& random, const std::string& name, std::size_t width, bool bias) {
  random.add(name + ".weight", Shape{width}, 0.2, 1);
  if (bias) random.add(name + ".bias", Shape{width}, 0.2);
}

void opt_weights(RandomWeights& random, std::size_t width, std::size_t projected, bool final_norm) {
  random.add("model.decoder.embed_tokens.weight", Shape{97, projected}, 0.5);
  random.add("model.decoder.embed_positions.weight", Shape{42, width}, 0.5);
  if (projected != width) matrix(random, "model.decoder.project_in", width, projected), matrix(random, "model.decoder.project_out", projected, width);
  for (const char* const layer : {"model.decoder.layers.0.", "model.decoder.layers.1."}) {
    for (const char* const one : {"q_proj", "k_proj", "v_proj", "out_proj"}) matrix(random, std::string(layer) + "self_attn." + one, width, width, true);
    for (const char* const one : {"self_attn_layer_norm", "final_layer_norm"}) norm(random, std::string(layer) + one, width, true);
    matrix(random, std::string(layer) + "fc1", 56, width, true);
    matrix(random, std::string(layer) + "fc2", width, 56, true);
  }
  if (final_norm) norm(random, "model.decoder.final_layer_norm", width, true);
}

void mpt_weights(RandomWeights& random, bool qk_ln, bool positions, bool bias) {
  const std::size_t width = 48;
  random.add("transformer.wte.weight", Shape{97, width}, 0.5);
  if (positions) random.add("transformer.wpe.weight", Shape{40, width}, 0.5);
  for (const char* const block : {"transformer.blocks.0.", "transformer.blocks.1."}) {
    matrix(random, std::string(block) + "attn.Wqkv", 3 * width, width, bias);
    matrix(random, std::string(block) + "attn.out_proj", width, width, bias);
    if (qk_ln) norm(random, std::string(block) + "attn.q_ln", width, bias), norm(random, std::string(block) + "attn.k_ln", width, bias);
    norm(random, std::string(block) + "norm_1", width, bias);
    norm(random, std::string(block) + "norm_2", width, bias);
    matrix(random, std::string(block) + "ffn.up_proj", 4 * width, width, bias);
    matrix(random, std::string(block) + "ffn.down_proj", width, 4 * width, bias);
  }
  norm(random, "transformer.norm_f", width, bias);
}

void neox_weights(RandomWeights& random) {
  const std::size_t width = 48;
  random.add("gpt_neox.embed_in.weight", Shape{97, width}, 0.5);
  for (const char* const layer : {"gpt_neox.layers.0.", "gpt_neox.layers.1."}) {
    norm(random, std::string(layer) + "input_layernorm", width, true);
    norm(random, std::string(layer) + "post_attention_layernorm", width, true);
    matrix(random, std::string(layer) + "attention.query_key_value", 3 * width, width, true);
    matrix(random, std::string(layer) + "attention.dense", width, width, true);
    matrix(random, std::string(layer) + "mlp.dense_h_to_4h", 70, width, true);
    matrix(random, std::string(layer) + "mlp.dense_4h_to_h", width, 70, true);
    random.add(std::string(layer) + "attention.masked_bias", Shape{}, 1);
    random.add(std::string(layer) + "attention.bias", Shape{1, 1, 8, 8}, 1);
  }
  norm(random, "gpt_neox.final_layer_norm", width, true);
  matrix(random, "embed_out", 97, width);
}

/// The families, in small. The two that have a table of positions have 40.
const std::map<std::string, Described> families = {
    {"opt",
     {R"({"model_type": "opt", "vocab_size": 97, "hidden_size": 48, "ffn_dim": 56, "num_hidden_layers": 2, "num_attention_heads": 3, "max_position_embeddings": 40})",
      [](RandomWeights& random) { opt_weights(random, 48, 48, true); }}},
    {"opt with norms behind and projections",
     {R"({"model_type": "opt", "vocab_size": 97, "hidden_size": 48, "ffn_dim": 56, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 40,
          "word_embed_proj_dim": 20, "do_layer_norm_before": false})",
      [](RandomWeights& random) { opt_weights(random, 48, 20, false); }}},
    {"mpt",
     {R"({"model_type": "mpt", "vocab_size": 97, "d_model": 48, "n_heads": 6, "n_layers": 2, "attn_config": {"clip_qkv": 1.5}})",
      [](RandomWeights& random) { mpt_weights(random, false, false, false); }}},
    {"mpt with a table of positions",
     {R"({"model_type": "mpt", "vocab_size": 97, "d_model": 48, "n_heads": 4, "n_layers": 2, "max_seq_len": 40, "no_bias": false, "attn_config": {"alibi": false}})",
      [](RandomWeights& random) { mpt_weights(random, false, true, true); }}},
    {"mosaic_gpt",
     {R"({"model_type": "mosaic_gpt", "vocab_size": 97, "d_model": 48, "n_heads": 3, "n_layers": 2, "mlp_ratio": 4, "alibi": true, "attn_qk_ln": true})",
      [](RandomWeights& random) { mpt_weights(random, true, false, false); }}},
    {"gpt_neox, side by side",
     {R"({"model_type": "gpt_neox", "vocab_size": 97, "hidden_size": 48, "intermediate_size": 70, "num_hidden_layers": 2, "num_attention_heads": 4, "rotary_pct": 0.25})",
      neox_weights}},
    {"gpt_neox, one behind the other",
     {R"({"model_type": "gpt_neox", "vocab_size": 97, "hidden_size": 48, "intermediate_size": 70, "num_hidden_layers": 2, "num_attention_heads": 4, "rotary_pct": 1.0,
          "use_parallel_residual": false})",
      neox_weights}},
};

Weights weights_of(const Described& family) {
  RandomWeights random;
  family.weights(random);
  return random.weights();
}
std::unique_ptr<DecoderStack> model_of(const Described& family) { return make_text_model(weights_of(family), Json::parse(family.config)); }
std::unique_ptr<DecoderStack> model_of(const std::string& name) { return model_of(families.at(name)); }

const std::vector<TokenId> prompt = {3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46, 26, 43};

Tensor run(Context& ctx, const LanguageModel& lm, std::span<const TokenId> ids, KvCache& cache) { return lm.forward(ctx, lm.embed(ctx, ids), cache); }
Tensor run(Context& ctx, const LanguageModel& lm, std::span<const TokenId> ids) {
  KvCache cache = lm.new_cache();
  return run(ctx, lm, ids, cache);
}

std::vector<TokenId> greedy(Context& ctx, const LanguageModel& lm, std::size_t count) {
  Generation generation(ctx, lm, lm.embed(ctx, prompt), {.max_new_tokens = count, .eos_token_id = std::vector<TokenId>()});
  while (generation.next()) continue;
  return {generation.ids().begin(), generation.ids().end()};
}

/// What a ConfigError says of a configuration, with the place.
std::string refused(const std::string& config) {
  try {
    (void)make_text_model(Weights(), Json::parse(config, "config.json"));
  } catch (const ConfigError& error) {
    return error.what();
  } catch (const UnsupportedError& error) {
    return error.what();
  } catch (const WeightError&) {
    return "accepted";
  }
  return "loaded";
}

}  // namespace

TEST_CASE("language models: a prompt in pieces gives what it gives in one go") {
  Context ctx;
  for (const auto& [name, family] : families) {
    INFO(name);
    const auto lm = model_of(family);
    KvCache pieces = lm->new_cache();
    const Tensor expected = run(ctx, *lm, prompt);
    CHECK(expected.columns() == lm->hidden_size());
    std::size_t done = 0;
    for (const std::size_t count : {4u, 1u, 1u, 6u, 1u}) {
      CHECK(largest_difference(run(ctx, *lm, std::span(prompt).subspan(done, count), pieces), expected.slice(done, count)) < 2e-5);
      done += count;
    }
    CHECK(pieces.length() == prompt.size());
  }
}

TEST_CASE("language models: sequences of a batch do not see each other") {
  Context ctx;
  for (const auto& [name, family] : families) {
    INFO(name);
    const auto lm = model_of(family);
    KvCache a = lm->new_cache(), b = lm->new_cache();
    (void)run(ctx, *lm, std::span(prompt).first(5), a);
    // One goes on where the other begins: rows of different lengths and positions in one pass.
    std::vector<TokenId> both(prompt.begin() + 5, prompt.begin() + 7);
    both.insert(both.end(), prompt.begin() + 2, prompt.begin() + 10);
    const Sequence batch[] = {{&a, 2}, {&b, 8}};
    const Tensor together = lm->forward(ctx, lm->embed(ctx, both), batch);
    CHECK(largest_difference(together.slice(0, 2), run(ctx, *lm, std::span(prompt).first(7)).slice(5, 2)) < 2e-5);
    CHECK(largest_difference(together.slice(2, 8), run(ctx, *lm, std::span(prompt).subspan(2, 8))) < 2e-5);
  }
}

TEST_CASE("language models: every tier and every number of threads gives the same tokens") {
  for (const auto& [name, family] : families) {
    INFO(name);
    const auto lm = model_of(family);
    Context reference{{.threads = 1, .isa = "scalar"}};
    const std::vector<TokenId> expected = greedy(reference, *lm, 16);
    CHECK(expected.size() == 16);
    for (const Isa isa : kernels::available()) {
      INFO(chiasm::name(isa));
      Context one{{.threads = 1, .isa = chiasm::name(isa)}}, many{{.threads = 3, .isa = chiasm::name(isa)}};
      CHECK(greedy(one, *lm, 16) == expected);
      CHECK(greedy(many, *lm, 16) == expected);
      CHECK(largest_difference(run(one, *lm, prompt), run(many, *lm, prompt)) == 0);  // bit for bit
    }
  }
}

TEST_CASE("language models: every tensor of a file is used, and a hook sees the rows between the blocks") {
  Context ctx;
  for (const auto& [name, family] : families) {
    INFO(name);
    const Weights w = weights_of(family);
    const auto lm = make_text_model(w, Json::parse(family.config));
    w.expect_all_used();
    CHECK(lm->vocab_size() == 97);
    CHECK(lm->sizes().hidden_size == 48);
    CHECK(lm->sizes().num_hidden_layers == 2);
    std::vector<std::size_t> widths;
    const auto hook = [&](std::size_t, MutView hidden) {
      widths.push_back(hidden.columns());
      hidden.row(0)[0] += 1.0f;
    };
    const BlockHook before_block = hook;
    KvCache cache = lm->new_cache();
    const Sequence one[] = {{&cache, prompt.size()}};
    CHECK(largest_difference(lm->forward(ctx, lm->embed(ctx, prompt), one, &before_block), run(ctx, *lm, prompt)) > 1e-4);
    CHECK(widths == std::vector<std::size_t>{48, 48});
  }
}

TEST_CASE("a table of positions has an end, and says so") {
  Context ctx;
  for (const auto& [name, key] : {std::pair("opt", "max_position_embeddings"), std::pair("opt with norms behind and projections", "max_position_embeddings"),
                                  std::pair("mpt with a table of positions", "max_seq_len")}) {
    INFO(name);
    const auto lm = model_of(name);
    CHECK(lm->sizes().context_length == 40);
    KvCache cache = lm->new_cache();
    std::vector<TokenId> ids(40, 7);
    (void)run(ctx, *lm, ids, cache);
    CHECK(cache.length() == 40);
    const std::string message = std::string("a sequence of 41 positions, the model has 40 (") + key + ")";
    const auto too_long = [&](const auto& call) {
      try {
        call();
        FAIL("no exception");
      } catch (const ArgumentError& error) {
        CHECK(error.what() == message);
      }
    };
    too_long([&] { (void)run(ctx, *lm, std::span(ids).first(1), cache); });
    CHECK(cache.length() == 40);
    Generation generation(ctx, *lm, lm->embed(ctx, std::span(ids).first(36)), {.max_new_tokens = 9, .eos_token_id = std::vector<TokenId>()});
    too_long([&] { while (generation.next()) continue; });
    CHECK(generation.ids().size() == 5);  // the fifth has no position of its own to ask for a sixth
    ids.push_back(7);
    too_long([&] { (void)run(ctx, *lm, ids); });
  }
  // The biases of ALiBi go on for ever.
  const auto mpt = model_of("mpt");
  CHECK(run(ctx, *mpt, std::vector<TokenId>(100, 7)).rows() == 100);
}

TEST_CASE("an exception between the blocks leaves the caches as they were") {
  Context ctx;
  for (const auto& [name, family] : families) {
    INFO(name);
    const auto lm = model_of(family);
    KvCache cache = lm->new_cache();
    (void)run(ctx, *lm, std::span(prompt).first(4), cache);
    const auto hook = [](std::size_t layer, MutView) {
      if (layer == 1) throw ArgumentError("from a hook");
    };
    const BlockHook before_block = hook;
    const Sequence one[] = {{&cache, 3}};
    CHECK_THROWS_AS(lm->forward(ctx, lm->embed(ctx, std::span(prompt).first(3)), one, &before_block), ArgumentError);
    CHECK(cache[0].length() == 4);
    CHECK(cache[1].length() == 4);
  }
}

TEST_CASE("OPT's names with and without the leading model, its head tied or not") {
  Context ctx;
  const Described& opt = families.at("opt");
  const Json config = Json::parse(opt.config);
  const Weights hub = weights_of(opt).renamed([](std::string_view name) { return std::string(name.substr(6)); });
  CHECK(hub.contains("decoder.embed_tokens.weight"));
  const auto lm = model_of("opt");
  const auto same = make_text_model(hub, config);
  hub.expect_all_used();
  const Tensor hidden = run(ctx, *lm, prompt);
  CHECK(largest_difference(run(ctx, *same, prompt), hidden) == 0);
  RandomWeights head;
  matrix(head, "lm_head", 97, 48);
  const Weights untied = hub.merged(head.weights());
  const auto other = make_text_model(untied, config);
  untied.expect_all_used();
  CHECK(largest_difference(other->logits(ctx, hidden), lm->logits(ctx, hidden)) > 1e-3);
}

TEST_CASE("MosaicGPT's names are MPT's") {
  Context ctx;
  const Described& mosaic = families.at("mosaic_gpt");
  const auto lm = model_of("mosaic_gpt");
  for (const std::string attention : {"attn", "causal_attn"}) {
    const Weights old = weights_of(mosaic).renamed([&](std::string_view name) {
      std::string result(name);
      for (const auto& [now, before] : {std::pair<std::string, std::string>("norm_1", "ln_1"), {"norm_2", "ln_2"}, {"norm_f", "ln_f"}, {"ffn.up_proj", "mlp.mlp_up"},
                                        {"ffn.down_proj", "mlp.mlp_down"}, {".attn.", "." + attention + "."}})
        if (const std::size_t at = result.find(now); at != std::string::npos) result.replace(at, now.size(), before);
      return result;
    });
    CHECK(old.contains("transformer.blocks.1.mlp.mlp_up"));
    const auto same = make_text_model(old, Json::parse(mosaic.config));
    old.expect_all_used();
    CHECK(largest_difference(run(ctx, *same, prompt), run(ctx, *lm, prompt)) == 0);
  }
  const Weights without = weights_of(mosaic).renamed([](std::string_view name) { return name.find("q_ln") == std::string::npos ? std::string(name) : std::string(); });
  CHECK_THROWS_AS(make_text_model(without, Json::parse(mosaic.config)), WeightError);
}

TEST_CASE("the slopes of ALiBi, also for numbers of heads that are no power of two") {
  const auto slopes = [](std::size_t heads, float most = 8) {
    MptConfig c;
    c.n_heads = heads, c.alibi_bias_max = most;
    return c.alibi_slopes();
  };
  CHECK(slopes(4) == std::vector<float>{0.25f, 0.0625f, 0.015625f, 0.00390625f});
  CHECK(slopes(3) == std::vector<float>{0.0625f, 0.00390625f, 0.25f});
  CHECK(slopes(1) == std::vector<float>{0.00390625f});
  CHECK(slopes(2, 4) == std::vector<float>{0.25f, 0.0625f});
  REQUIRE(slopes(12).size() == 12);
  CHECK(slopes(12)[7] == 0.00390625f);
  CHECK(slopes(12)[8] == Approx(std::pow(2.0, -0.5)));
}

TEST_CASE("GPT-NeoX reads the share of a head that turns from old and new files") {
  const auto rope = [](const std::string& more) { return GptNeoxConfig::from(Json::parse(R"({"hidden_size": 80, "num_attention_heads": 4)" + more + "}")).rope; };
  CHECK(rope("").dim == 5);
  CHECK(rope("").theta == 10000);
  CHECK(rope(R"(, "rotary_pct": 0.4, "rotary_emb_base": 500, "rope_theta": 7, "partial_rotary_factor": 1.0)").dim == 8);
  CHECK(rope(R"(, "rotary_pct": 0.4, "rotary_emb_base": 500, "rope_theta": 7, "partial_rotary_factor": 1.0)").theta == 500);
  CHECK(rope(R"(, "rope_parameters": {"rope_type": "default", "rope_theta": 77, "partial_rotary_factor": 0.5})").dim == 10);
  CHECK(rope(R"(, "rope_parameters": {"rope_type": "default", "rope_theta": 77, "partial_rotary_factor": 0.5})").theta == 77);
}

TEST_CASE("the caller may know the vocabulary better than the configuration") {
  for (const auto& [name, family] : families) {
    INFO(name);
    std::string config = family.config;
    config.replace(config.find("\"vocab_size\": 97"), 16, "\"vocab_size\": 128");
    CHECK_THROWS_AS(make_text_model(weights_of(family), Json::parse(config)), WeightError);
    CHECK(make_text_model(weights_of(family), Json::parse(config), 97)->vocab_size() == 97);
  }
}

TEST_CASE("senseless configurations of language models are refused, with the place") {
  CHECK(refused(R"({"model_type": "opt"})") == "accepted");
  CHECK(refused(R"({"model_type": "opt", "ffn_dim": 0})") == "config.json: /ffn_dim: is 0, expected 1 to 16777216");
  CHECK(refused(R"({"model_type": "opt", "word_embed_proj_dim": null})") == "accepted");
  CHECK(refused(R"({"model_type": "opt", "num_attention_heads": 5})") == "config.json: 'num_attention_heads' is 5, which does not divide 768");
  CHECK(refused(R"({"model_type": "opt", "activation_function": "maxout"})").starts_with("config.json: /activation_function: is 'maxout'"));
  CHECK(refused(R"({"model_type": "opt", "do_layer_norm_before": 1})").starts_with("config.json: /do_layer_norm_before: "));
  CHECK(refused(R"({"model_type": "mpt", "attn_config": {"clip_qkv": 6, "alibi_bias_max": 16, "softmax_scale": 0.1}})") == "accepted");
  CHECK(refused(R"({"model_type": "mpt", "attn_config": {"clip_qkv": -1}})") == "config.json: /attn_config/clip_qkv: is negative");
  CHECK(refused(R"({"model_type": "mpt", "attn_config": {"alibi_bias_max": 0}})") == "config.json: /attn_config/alibi_bias_max: is 0, expected a positive number");
  CHECK(refused(R"({"model_type": "mpt", "n_layers": 5000})") == "config.json: /n_layers: is 5000, expected at most 4096");
  CHECK(refused(R"({"model_type": "mpt", "logit_scale": "inv_sqrt_d_model"})") == "accepted");
  CHECK(refused(R"({"model_type": "mpt", "logit_scale": "large"})").starts_with("config.json: /logit_scale: "));
  CHECK(refused(R"({"model_type": "mpt", "attn_config": {"prefix_lm": true}})") == "not supported: prefix_lm of MPT (config.json)");
  CHECK(refused(R"({"model_type": "mosaic_gpt", "alibi": true, "mlp_ratio": "4"})").starts_with("config.json: /mlp_ratio: "));
  CHECK(refused(R"({"model_type": "gpt_neox", "rotary_pct": 1.5})") == "config.json: /rotary_pct: is 1.5, expected more than 0 and at most 1");
  CHECK(refused(R"({"model_type": "gpt_neox", "rope_parameters": {"rope_theta": -1}})") == "config.json: /rope_parameters/rope_theta: is -1, expected a positive number");
  CHECK(refused(R"({"model_type": "gpt_neox", "hidden_size": 20, "num_attention_heads": 4, "rotary_pct": 1.0})").find("expected an even number") != std::string::npos);
  CHECK(refused(R"({"model_type": "bloom"})") ==
        "not supported: language model 'bloom' (config.json), expected one of gpt_neox, llama, mistral, mosaic_gpt, mpt, opt, qwen2");
}
