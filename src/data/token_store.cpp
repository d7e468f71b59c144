#include "data/token_store.h"

#include <algorithm>
#include <thread>

#include "data/token_bin.h"
#include "data/token_shard.h"
#include "util/error.h"
#include "util/hash.h"
#include "util/log.h"

namespace dga {
namespace {

constexpr int kShardVersion = 1;  // of the tokens' meaning, not only of the format

int64_t thread_count(int64_t configured) {
  return configured > 0 ? configured : std::max<int64_t>(1, std::thread::hardware_concurrency());
}

}  // namespace

TokenStore::TokenStore(const DataConfig& config, std::shared_ptr<const Tokenizer> tokenizer)
    : folder_(config.cache),
      threads_(thread_count(config.tokenizer_threads)),
      max_line_bytes_(config.max_line_bytes),
      tokenizer_(std::move(tokenizer)),
      problems_(config.on_error) {
  remove_stale_temporaries(folder_);
}

TokenStore::~TokenStore() {
  stop();
  growing_.clear();
}

std::filesystem::path TokenStore::shard_path(const SourceFile& file) const {
  const std::string path = std::filesystem::absolute(file.path).lexically_normal().string();
  const std::string identity =
      str(kShardVersion, '\n', path, '\n', file.size_bytes, '\n', file.modified_ns, '\n', config::name_of(file.format),
          '\n', file.text_field, '\n', tokenizer_->hash(), '\n', max_line_bytes_);
  return folder_ / (hash_hex(identity) + ".tokens");
}

void TokenStore::check(const SourceFile& file) const {
  DGA_CHECK_INPUT(!file.is_text() || tokenizer_, file.path.string(),
                  " is text, which needs a sentencepiece model; set data.tokenizer, or a model.path that has one");
}

std::shared_ptr<TokenFile> TokenStore::open(const SourceFile& file, const std::shared_ptr<TokenFile>& after) {
  check(file);
  const std::lock_guard lock(mutex_);
  if (open_.size() > prune_at_) {
    std::erase_if(open_, [](const auto& entry) { return entry.second.expired(); });
    prune_at_ = 2 * open_.size() + 64;
  }
  std::erase_if(growing_, [](const auto& shard) { return shard->join_if_done(); });
  const std::string key =
      file.is_text() ? shard_path(file).string()
                     : str(file.path.string(), ' ', config::name_of(file.format), ' ', file.separator.value_or(-1));
  if (const auto found = open_.find(key); found != open_.end()) {
    if (std::shared_ptr<TokenFile> alive = found->second.lock()) return alive;
  }
  std::shared_ptr<TokenFile> opened = file.is_text() ? open_text(file, key, after) : open_bin(file);
  open_[key] = opened;
  return opened;
}

std::shared_ptr<TokenFile> TokenStore::open_bin(const SourceFile& file) {
  return std::make_shared<TokenBin>(file.path, file.format == SourceFormat::u16 ? 2 : 4, file.separator);
}

std::shared_ptr<TokenFile> TokenStore::open_text(const SourceFile& file, const std::string& path,
                                                 const std::shared_ptr<TokenFile>& after) {
  if (std::shared_ptr<TokenShard> shard = TokenShard::open(path)) {
    if (reported_.insert(path).second) {
      problems_.report_earlier(file.path, shard->problems().counts, shard->problems().first);
    }
    return shard;
  }
  if (std::filesystem::exists(path)) log::warning(path, " is no whole token shard; its file is tokenised again");
  if (!encoders_) {
    encoders_ = std::make_unique<EncoderPool>(*tokenizer_, threads_);
    if (!tokenizer_->can_be_cut()) {
      log::warning(tokenizer_->path().string(), " is no BPE model without normalisation: documents are tokenised as ",
                   "a whole, which is slower and for huge ones takes much memory");
    }
  }
  const TokenizingContext context{*tokenizer_, *encoders_, problems_, stop_.get_token(), max_line_bytes_, told_};
  auto shard = std::make_shared<GrowingShard>(file, path, context, std::dynamic_pointer_cast<GrowingShard>(after));
  growing_.push_back(shard);
  reported_.insert(path);
  return shard;
}

}  // namespace dga
