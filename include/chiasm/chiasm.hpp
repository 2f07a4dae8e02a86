/// Everything but the decoder of image files (io/image_file.hpp), Eigen interop, and what needs a library of its own.
#pragma once

#include <chiasm/version.hpp>

#include <chiasm/core/activation.hpp>
#include <chiasm/core/callback.hpp>
#include <chiasm/core/cancel_token.hpp>
#include <chiasm/core/content_hash.hpp>
#include <chiasm/core/context.hpp>
#include <chiasm/core/dtype.hpp>
#include <chiasm/core/error.hpp>
#include <chiasm/core/function_ref.hpp>
#include <chiasm/core/memory_pool.hpp>
#include <chiasm/core/shape.hpp>
#include <chiasm/core/tensor.hpp>
#include <chiasm/core/thread_pool.hpp>
#include <chiasm/core/token_id.hpp>
#include <chiasm/core/weight.hpp>
#include <chiasm/core/weights.hpp>

#include <chiasm/kernels/dispatch.hpp>
#include <chiasm/kernels/isa.hpp>

#include <chiasm/io/audio.hpp>
#include <chiasm/io/audio_processor.hpp>
#include <chiasm/io/chat_template.hpp>
#include <chiasm/io/checkpoint.hpp>
#include <chiasm/io/constraint.hpp>
#include <chiasm/io/file_map.hpp>
#include <chiasm/io/image.hpp>
#include <chiasm/io/image_processor.hpp>
#include <chiasm/io/json.hpp>
#include <chiasm/io/resample.hpp>
#include <chiasm/io/safetensors.hpp>
#include <chiasm/io/tokenizer.hpp>
#include <chiasm/io/tokenizer/pattern.hpp>
#include <chiasm/io/tokenizer/token_stream.hpp>
#include <chiasm/io/tokenizer/tokenizer.hpp>
#include <chiasm/io/tokenizer/unicode.hpp>

#include <chiasm/nn/attention.hpp>
#include <chiasm/nn/concat.hpp>
#include <chiasm/nn/embedding.hpp>
#include <chiasm/nn/kv_cache.hpp>
#include <chiasm/nn/kv_view.hpp>
#include <chiasm/nn/linear.hpp>
#include <chiasm/nn/matmul.hpp>
#include <chiasm/nn/mlp.hpp>
#include <chiasm/nn/norm.hpp>
#include <chiasm/nn/patch_embedding.hpp>
#include <chiasm/nn/position_table.hpp>
#include <chiasm/nn/rope.hpp>
#include <chiasm/nn/sampling.hpp>

#include <chiasm/modules/config.hpp>
#include <chiasm/modules/decoder.hpp>
#include <chiasm/modules/encoder_layer.hpp>
#include <chiasm/modules/language_model.hpp>
#include <chiasm/modules/projector.hpp>
#include <chiasm/modules/text_tower.hpp>
#include <chiasm/modules/vit.hpp>

#include <chiasm/models/clip.hpp>
#include <chiasm/models/dual_encoder.hpp>
#include <chiasm/models/llama.hpp>
#include <chiasm/models/llava.hpp>
#include <chiasm/models/mistral.hpp>
#include <chiasm/models/qwen2.hpp>
#include <chiasm/models/siglip.hpp>
#include <chiasm/models/text_model.hpp>

#include <chiasm/pipelines/conversation.hpp>
#include <chiasm/pipelines/dual_encoder.hpp>
#include <chiasm/pipelines/family.hpp>
#include <chiasm/pipelines/feature_cache.hpp>
#include <chiasm/pipelines/generation.hpp>
#include <chiasm/pipelines/llava.hpp>
#include <chiasm/pipelines/pipeline.hpp>
#include <chiasm/pipelines/prefix_cache.hpp>
#include <chiasm/pipelines/prompt.hpp>
#include <chiasm/pipelines/text.hpp>
