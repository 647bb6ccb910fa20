#include "mapping.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
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

mx::Dtype dtype_of(const std::string& name) {
  if (name == "float32") return mx::float32;
  if (name == "float16") return mx::float16;
  if (name == "bfloat16") return mx::bfloat16;
  require(name == "uint32", "a mapped tensor is float32, float16, bfloat16 or uint32");
  return mx::uint32;
}

}  // namespace

Mapping::Mapping(const std::string& path) : size_(0), data_(nullptr) {
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
  // In pages of 2 MiB, where the file system keeps them so (ext4, XFS and tmpfs of newer kernels): products that read
  // memory as fast as it goes would otherwise wait for the page table. What does not apply is refused, and harmless.
  ::madvise(data_, size_, MADV_HUGEPAGE);
  // A page that has to be read from a disk in the middle of a conversation would be heard.
  if (::madvise(data_, size_, MADV_POPULATE_READ) != 0) ::madvise(data_, size_, MADV_WILLNEED);
}

Mapping::~Mapping() { ::munmap(data_, size_); }

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
