#include "mapping.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <stdexcept>

#include "matrix.h"
#include "mlx/allocator.h"
#include "mlx/ops.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22  // Linux 5.14; an older one refuses it
#endif

namespace packet_voice {
namespace {

[[noreturn]] void fail(const std::string& path, int error) {
  throw std::runtime_error(path + ": " + std::strerror(error));
}

// How far the numbers are behind the pointer that MLX keeps, which is where its allocator puts the size.
size_t bytes_before() {
  alignas(16) char place[64];
  mx::allocator::Buffer buffer(place);
  return size_t(static_cast<char*>(buffer.raw_ptr()) - place);
}

// What is mapped, for a signal handler: it may take no lock and no memory.
struct Region {
  std::atomic<char*> begin{nullptr};
  std::atomic<size_t> size{0};
  std::atomic<bool> lost{false};
  std::string path;  // not for the handler
};

constexpr int kRegions = 1024;
Region regions[kRegions];
std::mutex regions_lock;  // of those who add, remove and ask
std::atomic<bool> any_lost{false};
struct sigaction handled_before;

// The precedent is libwayland's wayland-shm.c: what is missing becomes zeros, and the owner is told afterwards.
void on_bus_error(int, siginfo_t* info, void*) {
  const int error = errno;
  const char* at = static_cast<const char*>(info->si_addr);
  for (Region& region : regions) {
    char* begin = region.begin.load();
    const size_t size = region.size.load();
    if (begin == nullptr || at < begin || at >= begin + size) continue;
    region.lost.store(true);
    any_lost.store(true);
    constexpr int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
    if (::mmap(begin, size, PROT_READ | PROT_WRITE, flags, -1, 0) == MAP_FAILED) break;
    errno = error;
    return;
  }
  ::sigaction(SIGBUS, &handled_before, nullptr);  // not ours: the instruction is repeated, and ends as before
}

void handle_bus_errors() {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction action = {};
    action.sa_sigaction = on_bus_error;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    ::sigaction(SIGBUS, &action, &handled_before);
  });
}

// Its place; -1 where there is no room.
int add_region(char* begin, size_t size, const std::string& path) {
  const std::lock_guard<std::mutex> held(regions_lock);
  for (int i = 0; i < kRegions; ++i) {
    if (regions[i].begin.load() != nullptr) continue;
    regions[i].lost.store(false);
    regions[i].path = path;
    regions[i].size.store(size);
    regions[i].begin.store(begin);
    return i;
  }
  return -1;
}

mx::Dtype dtype_of(const std::string& name) {
  if (name == "float32") return mx::float32;
  if (name == "float16") return mx::float16;
  if (name == "bfloat16") return mx::bfloat16;
  require(name == "uint32", "a mapped tensor is float32, float16, bfloat16 or uint32");
  return mx::uint32;
}

}  // namespace

Mapping::Mapping(const std::string& path) : size_(0), data_(nullptr), region_(-1) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) fail(path, errno);
  struct stat about;
  void* place = MAP_FAILED;
  int error = ::fstat(file, &about) == 0 ? 0 : errno;
  if (error == 0) {
    size_ = size_t(about.st_size);
    place = ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file, 0);
    if (place == MAP_FAILED) error = errno;
  }
  ::close(file);
  if (error != 0) fail(path, error);
  data_ = static_cast<char*>(place);
  handle_bus_errors();
  region_ = add_region(data_, size_, path);
  if (region_ < 0) {
    ::munmap(data_, size_);
    fail(path, EMFILE);
  }
  // In pages of 2 MiB, where the file system keeps them so (ext4, XFS and tmpfs of newer kernels): products that read
  // memory as fast as it goes would otherwise wait for the page table. What does not apply is refused, and harmless.
  ::madvise(data_, size_, MADV_HUGEPAGE);
  // A page that has to be read from a disk in the middle of a conversation would be heard.
  if (::madvise(data_, size_, MADV_POPULATE_READ) != 0) ::madvise(data_, size_, MADV_WILLNEED);
}

Mapping::~Mapping() {
  {
    const std::lock_guard<std::mutex> held(regions_lock);
    regions[region_].begin.store(nullptr);
  }
  ::munmap(data_, size_);
}

std::optional<std::string> lost_file() {
  if (!any_lost.load()) return std::nullopt;
  const std::lock_guard<std::mutex> held(regions_lock);
  for (const Region& region : regions) {
    if (region.begin.load() != nullptr && region.lost.load()) return region.path;
  }
  return std::nullopt;
}

mx::array mapped(
    std::shared_ptr<const Mapping> mapping, size_t offset, const std::vector<int>& shape, const std::string& dtype) {
  static const size_t before = bytes_before();
  const mx::Dtype type = dtype_of(dtype);
  size_t bytes = type.size();
  for (const int axis : shape) {
    require(axis > 0, "a mapped tensor is not empty");
    require(!__builtin_mul_overflow(bytes, size_t(axis), &bytes), "a mapped tensor is larger than its file");
  }
  require(offset >= before && offset % type.size() == 0, "a mapped tensor is not at a multiple of its size");
  require(offset <= mapping->size() && bytes <= mapping->size() - offset, "a mapped tensor is larger than its file");
  mx::array values(mx::Shape(shape.begin(), shape.end()), type, nullptr, {});
  mx::allocator::Buffer buffer(mapping->data() + offset - before);
  values.set_data(mx::allocator::Data(buffer, [mapping](mx::allocator::Buffer) {}));
  values.set_status(mx::array::Status::available);
  return values;
}

mx::array contiguous(const mx::array& values) {
  return values.is_available() && values.flags().row_contiguous ? values : mx::contiguous(values);
}

}  // namespace packet_voice
