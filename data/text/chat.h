/* Templates of conversations: what a model's training put around messages. Rows, no language. The
 * texts are those that the models' makers publish. */
#ifndef NIBBLE_DATA_TEXT_CHAT_H
#define NIBBLE_DATA_TEXT_CHAT_H

#include "core/error.h"
#include "data/text/vocabulary.h"

typedef enum ChatRole { CHAT_SYSTEM, CHAT_USER, CHAT_ASSISTANT, CHAT_ROLES } ChatRole;

typedef struct ChatMessage {
    ChatRole role;
    const char *content;
} ChatMessage;

typedef struct ChatTemplate {
    const char *begin; /* of every conversation; NULL: what the tokenizer itself puts there */
    struct {
        const char *before, *after; /* what is after an answer is learned with it */
    } around[CHAT_ROLES];
    const char *behind;      /* an answer, and not learned; NULL: nothing */
    bool has_inner_system;   /* the system's message is part of the user's that follows */
    bool trims;              /* contents, of blanks around them */
    const char *specials[4]; /* tokens that a tokenizer must have; ends with NULL */
} ChatTemplate;

extern const char *const chat_template_names[]; /* "chatml", ...; ends with NULL */
extern const ChatTemplate chat_templates[];     /* by place in the names */

extern const char *const chat_role_names[]; /* by ChatRole; ends with NULL */

/* A text and which of its bytes are answers. */
typedef struct ChatText {
    Span text;
    const char *begin; /* of the template */
    Span *answers;     /* in order, within `text` */
    int answer_count;
} ChatText;

/* Of messages in their order. In memory of `arena`. */
ChatText chat_render(const ChatTemplate *t, const ChatMessage *messages, int count, Arena *arena);

/* What a model is given to answer the last message: the text up to the answer, without the blanks
 * that the template puts in front of one, since these are part of the answer's first token. */
Span chat_prompt(const ChatTemplate *t, const ChatMessage *messages, int count, Arena *arena);

/* Refuses a message of the system's that would be part of a user's which is not there. */
bool chat_check_order(const ChatTemplate *t, const ChatMessage *messages, int count, Error *err);

/* Whether the vocabulary has the template's tokens; bytes spell them. */
bool chat_check(const ChatTemplate *t, const Vocabulary *vocabulary, Error *err);

#endif
