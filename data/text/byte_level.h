/* Bytes as visible characters, GPT-2's way: printable bytes of Latin-1 are themselves, the 68
 * others are U+0100 and on, in order. Vocabularies of byte-level tokenizers are written in them. */
#ifndef NIBBLE_DATA_TEXT_BYTE_LEVEL_H
#define NIBBLE_DATA_TEXT_BYTE_LEVEL_H

#include "data/text/unicode.h"

Span byte_level_encode(Span bytes, Arena *arena);
/* Characters that stand for no byte stay as they are. Valid text only. */
Span byte_level_decode(Span text, Arena *arena);

#endif
