/// fwd.hpp first, then everything: each of its names is the one that the library defines.
#include <chiasm/fwd.hpp>

namespace {

// What a header of one's own would say with names alone.
struct Robot {
  const chiasm::Pipeline* pipeline = nullptr;
  chiasm::Context* context = nullptr;
  chiasm::DType dtype{};
  chiasm::Tensor (*see)(chiasm::Context&, const chiasm::Image&, chiasm::View, chiasm::MutView) = nullptr;
  chiasm::TokenId last = 0;
};

}  // namespace

#include <chiasm/chiasm.hpp>

#include "support/catch.hpp"

using namespace chiasm;

namespace {

// A name that the library defines in another namespace, or no more, is still incomplete here: the line does not compile.
template <class... Types>
constexpr bool complete = ((sizeof(Types) > 0) && ...);
static_assert(complete<Error, FileError, FormatError, WeightError, ConfigError, ShapeError, ArgumentError, UnsupportedError,
                       Cancelled, AttentionWeights, FieldOfView, HeatMap, AttentionRollout, Explained, Shape, Tensor, View, MutView, Weight, Weights, ThreadPool, MemoryPool, CancelToken,
                       ContextOptions, Context, TokenId, bf16, f16, DType, WeightKind, Conversion, Activation, Compute, FileMap, Json,
                       Safetensors, TorchPickle, CheckpointOptions, Checkpoint, Constraint, Tokenizer, TokenStream, TemplateError, TemplateValue,
                       ChatMessage, RenderOptions, ChatTemplate, Image, ImageProcessorConfig, ImageInputs, ImageProcessor, Linear,
                       Embedding, PatchEmbedding, LayerNorm, RmsNorm, Mlp, GatedMlp, RopeConfig, Rope, KvCache, Sampler, Sequence,
                       LanguageModel, DecoderPass, DecoderSizes, DecoderStack, DecoderConfig, DecoderLayer, Decoder, EncoderLayerConfig, EncoderLayer, VitConfig, Vit,
                       TextTowerConfig, TextTower, Projector, DualEncoderModel, Clip, Siglip, LlamaConfig, Llama, MistralConfig,
                       Mistral, Qwen2Config, Qwen2, OptConfig, Opt, MptConfig, Mpt, GptNeoxConfig, GptNeox, DistanceBias, RelativePositionBias, EncoderDecoder, T5Config, T5, LlavaConfig, Llava, QFormerConfig, QFormer, TextBatch, Blip2Config, Blip2, Blip2Itm, PerceiverResamplerConfig, PerceiverResampler, MediaRun, MediaSight, MediaKeysValues, GatedCrossAttentionConfig,
                       GatedCrossAttention, GatedLayers, GatedDecoder, IdeficsConfig, IdeficsText, Idefics, Prompt, Message, Demonstration, LoadOptions, ClipVision, OpenFlamingoConfig, OpenFlamingo, FlamingoFiles, FlamingoParts, GenerateOptions, PromptLookup, Draft, Reply,
                       Generation, Family, Pipeline, DualEncoder, Hit, VectorIndex, FlatIndex, ModelIdentity, PictureFile, PictureIndex, DemonstrationFile, FunctionRef<void()>, Callback<void()>>);

}  // namespace

TEST_CASE("a class declared by names alone is usable once the library is there") {
  Context ctx({.threads = 1});
  Robot robot;
  robot.context = &ctx;
  robot.dtype = DType::bf16;
  CHECK(robot.context->threads() == 1);
  CHECK(robot.pipeline == nullptr);
  CHECK(robot.see == nullptr);
  CHECK(robot.last == 0);
  CHECK(size_of(robot.dtype) == 2);
}
