/// Names only: for headers of one's own that mention the library's types by pointer or reference.
#pragma once

#include <chiasm/version.hpp>

#include <cstdint>

namespace chiasm::inline CHIASM_ABI {

// core
class Error;
class FileError;
class FormatError;
class WeightError;
class ConfigError;
class ShapeError;
class ArgumentError;
class UnsupportedError;
class Cancelled;
class Shape;
template <class T>
class BasicTensor;
using Tensor = BasicTensor<float>;
template <class T>
class BasicView;
using View = BasicView<const float>;
using MutView = BasicView<float>;
class Weight;
class Weights;
class ThreadPool;
class MemoryPool;
class CancelToken;
struct AttentionWeights;
struct ContextOptions;
class Context;
template <class Signature>
class FunctionRef;
template <class Signature>
class Callback;
using TokenId = std::int32_t;
struct bf16;
struct f16;
enum class DType : std::uint8_t;
enum class WeightKind : std::uint8_t;
struct Conversion;
enum class Activation : std::uint8_t;
enum class Compute : std::uint8_t;
enum class KvKind : std::uint8_t;

// io
class FileMap;
class Json;
class Gguf;
struct GgufModel;
struct Safetensors;
struct TorchPickle;
struct CheckpointOptions;
class Checkpoint;
class Constraint;
class Tokenizer;
class TokenStream;
class TemplateError;
class TemplateValue;
struct ChatMessage;
struct RenderOptions;
class ChatTemplate;
class Image;
struct ImageProcessorConfig;
struct ImageInputs;
struct FieldOfView;
class ImageProcessor;
class Audio;
struct AudioProcessorConfig;
struct AudioInputs;
class AudioProcessor;

// nn
class Linear;
class Embedding;
class PatchEmbedding;
class LayerNorm;
class RmsNorm;
class Mlp;
class GatedMlp;
class Operand;
struct RopeConfig;
class Rope;
struct DistanceBias;
class RelativePositionBias;
class KvCache;
class Sampler;

// modules
struct Sequence;
class LanguageModel;
struct DecoderPass;
struct DecoderSizes;
class DecoderStack;
struct DecoderConfig;
class DecoderLayer;
class Decoder;
class EncoderDecoder;
struct EncoderLayerConfig;
class EncoderLayer;
struct VitConfig;
class Vit;
struct TextTowerConfig;
class TextTower;
class Projector;
struct QFormerConfig;
class QFormer;
struct TextBatch;
struct PerceiverResamplerConfig;
class PerceiverResampler;
struct MediaRun;
struct MediaKeysValues;
struct MediaSight;
struct GatedCrossAttentionConfig;
class GatedCrossAttention;
struct GatedLayers;
class GatedDecoder;

// models
class DualEncoderModel;
class Clip;
class Siglip;
struct LlamaConfig;
class Llama;
struct MistralConfig;
class Mistral;
struct Qwen2Config;
class Qwen2;
struct OptConfig;
class Opt;
struct MptConfig;
class Mpt;
struct GptNeoxConfig;
class GptNeox;
struct T5Config;
class T5;
struct LlavaConfig;
class Llava;
struct Blip2Config;
class Blip2;
class Blip2Itm;
struct ClipVision;
struct OpenFlamingoConfig;
class OpenFlamingo;
struct IdeficsConfig;
class IdeficsText;
class Idefics;

// pipelines
class Prompt;
struct Message;
struct Demonstration;
struct LoadOptions;
struct FlamingoFiles;
struct FlamingoParts;
struct GenerateOptions;
struct PromptLookup;
struct Draft;
struct Reply;
class Generation;
class Family;
class TowerProcessor;
class FeatureCache;
struct Prefix;
class PrefixCache;
class Conversation;
class Pipeline;
struct HeatMap;
class AttentionRollout;
struct Explained;
class DualEncoder;
struct Hit;
class VectorIndex;
class FlatIndex;
class HnswIndex;
struct ModelIdentity;
struct PictureFile;
class PictureIndex;
struct DemonstrationFile;

}  // namespace chiasm
