"""Decoded images without a decoder, and how full a pool's memories are."""

from app.decoding.decoder_memory import PixelBlock
from app.decoding.pool import DecoderPool
from bundle.tensors import Images


async def pixel_block(decoders: DecoderPool, images: Images) -> PixelBlock:
    """`images` as if the first decoder of the pool had made them."""
    memory = decoders._memories[0]
    block = await memory.take(images.nbytes)
    memory.array(block, images.shape)[...] = images
    return PixelBlock(memory, block, images.shape)


def used_bytes(decoders: DecoderPool) -> int:
    """The bytes of the blocks that are not released, in all memories of the pool."""
    memories = [memory._blocks for memory in decoders._memories]
    return sum(blocks.memory.size - sum(size for _, size in blocks._gaps) for blocks in memories)
