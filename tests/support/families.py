"""Families of chat models: a chat template of each, and a tokenizer of single bytes with its special tokens.

The templates are our own: short ones that do what each family's published template does for turns, system turns, tools,
thoughts, dates and the ends of turns. Long instructions that the published ones hold are cut down to their first words.
docs/models.md has the table of what they do.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

ALTERNATE = (
    "{%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') -}}{%- endif -%}"
)
NO_SYSTEM = "{%- if messages[0].role == 'system' -%}{{- raise_exception('System role not supported') -}}{%- endif -%}"
SPLIT = (  # the system turn and the others
    "{%- if messages[0].role == 'system' -%}{%- set said = messages[0].content -%}{%- set talk = messages[1:] -%}"
    "{%- else -%}{%- set said = none -%}{%- set talk = messages -%}{%- endif -%}"
)
LLAMA_2 = (
    SPLIT + "{%- for m in talk -%}" + ALTERNATE + "{%- set text = m.content -%}"
    "{%- if loop.first and said is not none -%}"
    "{%- set text = '<<SYS>>\\n' + said + '\\n<</SYS>>\\n\\n' + m.content -%}{%- endif -%}"
    "{%- if m.role == 'user' -%}{{- bos_token + '[INST] ' + text.strip() + ' [/INST]' -}}"
    "{%- else -%}{{- ' ' + text.strip() + ' ' + eos_token -}}{%- endif -%}{%- endfor -%}"
)
LLAMA_3 = (  # always opens an answer
    "{{- bos_token -}}{%- for m in messages -%}"
    "{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' -}}{%- endfor -%}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}"
)
LLAMA_3_1 = (
    "{{- bos_token -}}"
    "{%- if date_string is not defined -%}{%- set date_string = strftime_now('%d %b %Y') -%}{%- endif -%}"
    + SPLIT
    + "{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: ' + date_string + '\\n\\n' -}}"
    "{{- (said or '') | trim + '<|eot_id|>' -}}"
    "{%- for m in talk -%}"
    "{%- if m.tool_calls -%}{%- if m.tool_calls | length != 1 -%}"
    "{{- raise_exception('This model only supports single tool-calls at once!') -}}{%- endif -%}"
    "{%- set call = m.tool_calls[0].function -%}"
    '{{- \'<|start_header_id|>assistant<|end_header_id|>\\n\\n{"name": "\' + call.name + \'", "parameters": \' -}}'
    "{{- call.arguments | tojson + '}<|eot_id|>' -}}"
    "{%- elif m.role == 'tool' -%}"
    "{{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' + m.content | tojson + '<|eot_id|>' -}}"
    "{%- else -%}{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' -}}"
    "{%- if tools and loop.first -%}{%- for tool in tools -%}{{- tool | tojson(indent=4) + '\\n\\n' -}}{%- endfor -%}"
    "{%- endif -%}{{- m.content | trim + '<|eot_id|>' -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}"
)
QWEN_CALLS = (
    "{%- for call in m.tool_calls or [] -%}"
    '{{- \'\\n<tool_call>\\n{"name": "\' + call.function.name + \'", "arguments": \' -}}'
    "{{- call.function.arguments | tojson + '}\\n</tool_call>' -}}{%- endfor -%}"
)
QWEN_RESULTS = (
    "{%- if loop.first or loop.previtem.role != 'tool' -%}{{- '<|im_start|>user' -}}{%- endif -%}"
    "{{- '\\n<tool_response>\\n' + m.content + '\\n</tool_response>' -}}"
    "{%- if loop.last or loop.nextitem.role != 'tool' -%}{{- '<|im_end|>\\n' -}}{%- endif -%}"
)
QWEN_TOOLS = (
    "{%- if tools -%}{{- '# Tools\\n' -}}{%- for tool in tools -%}{{- tool | tojson + '\\n' -}}{%- endfor -%}"
    "{%- endif -%}"
)
QWEN_2_5 = (
    SPLIT
    + "{{- '<|im_start|>system\\n' + (said if said is not none else 'You are Qwen.') -}}"
    + QWEN_TOOLS
    + "{{- '<|im_end|>\\n' -}}"
    "{%- for m in talk -%}{%- if m.role == 'tool' -%}"
    + QWEN_RESULTS
    + "{%- else -%}{{- '<|im_start|>' + m.role + '\\n' + m.content -}}"
    + QWEN_CALLS
    + "{{- '<|im_end|>\\n' -}}{%- endif -%}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
QWEN_3 = (
    SPLIT
    + "{%- if tools or said is not none -%}{{- '<|im_start|>system\\n' + (said or '') -}}"
    + QWEN_TOOLS
    + "{{- '<|im_end|>\\n' -}}{%- endif -%}"
    "{%- set ns = namespace(asked=-1) -%}"
    "{%- for m in talk -%}{%- if m.role == 'user' -%}{%- set ns.asked = loop.index0 -%}{%- endif -%}{%- endfor -%}"
    "{%- for m in talk -%}"
    "{%- if m.role in ['user', 'system'] -%}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' -}}"
    "{%- elif m.role == 'assistant' -%}"
    "{%- set thoughts = '' -%}{%- set text = m.content -%}"
    "{%- if m.reasoning_content is string -%}{%- set thoughts = m.reasoning_content -%}"
    "{%- elif '</think>' in text -%}"
    "{%- set thoughts = text.split('</think>')[0].split('<think>')[-1] -%}"
    "{%- set text = text.split('</think>')[-1].lstrip('\\n') -%}{%- endif -%}"
    "{{- '<|im_start|>assistant\\n' -}}"
    "{%- if loop.index0 > ns.asked and (loop.last or thoughts) -%}"
    "{{- '<think>\\n' + thoughts.strip('\\n') + '\\n</think>\\n\\n' -}}{%- endif -%}"
    "{{- text.lstrip('\\n') -}}" + QWEN_CALLS + "{{- '<|im_end|>\\n' -}}"
    "{%- elif m.role == 'tool' -%}" + QWEN_RESULTS + "{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}"
    "{%- if enable_thinking is defined and not enable_thinking -%}{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}"
    "{%- endif -%}"
)
GEMMA_TURNS = (
    "{{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' -}}"
    "{{- (before if loop.first and before else '') + m.content | trim + '<end_of_turn>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<start_of_turn>model\\n' -}}{%- endif -%}"
)
GEMMA_2 = "{{- bos_token -}}" + NO_SYSTEM + "{%- for m in messages -%}" + ALTERNATE + GEMMA_TURNS
GEMMA_3 = (
    "{{- bos_token -}}" + SPLIT + "{%- set before = said + '\\n\\n' if said is not none else '' -%}"
    "{%- for m in talk -%}" + ALTERNATE + GEMMA_TURNS
)
MISTRAL_V0_1 = (
    "{{- bos_token -}}{%- for m in messages -%}"
    + ALTERNATE
    + "{%- if m.role == 'user' -%}{{- '[INST] ' + m.content + ' [/INST]' -}}"
    "{%- else -%}{{- m.content + eos_token + ' ' -}}{%- endif -%}{%- endfor -%}"
)
MISTRAL_V0_3 = (  # the system turn and the tools come with the last question, if no answer follows it
    "{{- bos_token -}}" + SPLIT + "{%- set ns = namespace(at=0, last=-1) -%}"
    "{%- for m in talk -%}{%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}"
    "{%- if m.role != 'tool' and not m.tool_calls -%}"
    "{%- if (m.role == 'user') != (ns.at % 2 == 0) -%}"
    "{{- raise_exception('After the optional system message, conversation roles must alternate user/assistant') -}}"
    "{%- endif -%}{%- set ns.at = ns.at + 1 -%}{%- endif -%}{%- endfor -%}"
    "{%- for m in talk -%}"
    "{%- if m.role == 'user' -%}"
    "{%- if tools and loop.index0 == ns.last -%}{{- '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' -}}"
    "{%- endif -%}"
    "{{- '[INST] ' + (said + '\\n\\n' if loop.last and said is not none else '') + m.content + '[/INST]' -}}"
    "{%- elif m.tool_calls -%}{{- '[TOOL_CALLS] [' -}}{%- for call in m.tool_calls -%}"
    "{%- if call.id is not defined or call.id | length != 9 -%}"
    "{{- raise_exception('Tool call IDs should be alphanumeric strings with length 9!') -}}{%- endif -%}"
    "{{- call.function | tojson + ('' if loop.last else ', ') -}}{%- endfor -%}{{- ']' + eos_token -}}"
    "{%- elif m.role == 'assistant' -%}{{- ' ' + m.content | trim + eos_token -}}"
    "{%- elif m.role == 'tool' -%}{{- '[TOOL_RESULTS] {\"content\": ' + m.content + '}[/TOOL_RESULTS]' -}}"
    "{%- endif -%}{%- endfor -%}"
)
PHI_3 = (  # leaves system turns out, and always opens an answer after a question
    "{{- bos_token -}}{%- for m in messages -%}"
    "{%- if m.role == 'user' -%}{{- '<|user|>\\n' + m.content + '<|end|>\\n<|assistant|>\\n' -}}"
    "{%- elif m.role == 'assistant' -%}{{- m.content + '<|end|>\\n' -}}{%- endif -%}{%- endfor -%}"
)
PHI_3_5 = (
    "{%- for m in messages -%}{%- if m.role in ['system', 'user', 'assistant'] -%}"
    "{{- '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>\\n' -}}{%- else -%}{{- eos_token -}}{%- endif -%}"
)
PHI_4 = (
    "{%- for m in messages -%}{%- if m.role in ['system', 'user', 'assistant'] -%}"
    "{{- '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant<|im_sep|>' -}}{%- endif -%}"
)
PHI_4_MINI = (
    "{%- for m in messages -%}{{- '<|' + m.role + '|>' + m.content + '<|end|>' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- else -%}{{- eos_token -}}{%- endif -%}"
)
SMOLLM_2 = (
    "{%- for m in messages -%}{%- if loop.first and m.role != 'system' -%}"
    "{{- '<|im_start|>system\\nYou are SmolLM.<|im_end|>\\n' -}}{%- endif -%}"
    "{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
SMOLLM_3 = (
    SPLIT + "{%- set mode = '/no_think' if enable_thinking is defined and not enable_thinking else '/think' -%}"
    "{{- '<|im_start|>system\\nToday Date: ' + strftime_now('%d %B %Y') + '\\nReasoning Mode: ' + mode + '\\n\\n' -}}"
    "{{- said if said is not none else 'You are SmolLM.' -}}"
    "{%- if tools -%}{{- '\\n\\n' + tools | tojson -}}{%- endif -%}{{- '<|im_end|>\\n' -}}"
    "{%- for m in talk -%}"
    "{%- if m.role == 'user' -%}{{- '<|im_start|>user\\n' + m.content + '<|im_end|>\\n' -}}"
    "{%- elif m.role == 'assistant' -%}{{- '<|im_start|>assistant\\n' -}}"
    "{%- if mode == '/no_think' -%}{{- '<think>\\n\\n</think>\\n' -}}{%- endif -%}"
    "{{- m.content.lstrip('\\n') + '<|im_end|>\\n' -}}"
    "{%- elif m.role == 'tool' -%}{{- '<|im_start|>user\\n' + m.content + '<|im_end|>\\n' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}"
    "{%- if mode == '/no_think' -%}{{- '<think>\\n\\n</think>\\n' -}}{%- endif -%}{%- endif -%}"
)
OLMO_2 = (
    "{{- bos_token -}}{%- for m in messages -%}"
    "{%- if m.role in ['system', 'user'] -%}{{- '<|' + m.role + '|>\\n' + m.content + '\\n' -}}"
    "{%- elif m.role == 'assistant' -%}"
    "{{- '<|assistant|>\\n' + m.content + eos_token + ('' if loop.last else '\\n') -}}{%- endif -%}"
    "{%- if loop.last and add_generation_prompt -%}{{- '<|assistant|>\\n' -}}{%- endif -%}{%- endfor -%}"
)
OLMO_3 = (
    "{%- set none_said = ' You do not currently have access to any functions.' -%}"
    "{%- if messages[0].role != 'system' -%}"
    "{{- '<|im_start|>system\\nYou are OLMo.' + none_said + '<|im_end|>\\n' -}}{%- endif -%}"
    "{%- for m in messages -%}"
    "{%- if m.role == 'system' -%}{{- '<|im_start|>system\\n' + m.content + none_said + '<|im_end|>\\n' -}}"
    "{%- elif m.role == 'user' -%}{{- '<|im_start|>user\\n' + m.content + '<|im_end|>\\n' -}}"
    "{%- elif m.role == 'assistant' -%}"
    "{{- '<|im_start|>assistant\\n' + m.content + (eos_token if loop.last else '<|im_end|>\\n') -}}{%- endif -%}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n<think>' -}}{%- endif -%}"
)
GRANITE_3 = (
    SPLIT + "{{- '<|start_of_role|>system<|end_of_role|>' -}}"
    "{{- said if said is not none else 'Today\\'s Date: ' + strftime_now('%B %d, %Y') + '.\\nYou are Granite.' -}}"
    "{{- '<|end_of_text|>\\n' -}}"
    "{%- if tools -%}{{- '<|start_of_role|>tools<|end_of_role|>' + tools | tojson + '<|end_of_text|>\\n' -}}"
    "{%- endif -%}"
    "{%- for m in talk -%}"
    "{{- '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content + '<|end_of_text|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|start_of_role|>assistant<|end_of_role|>' -}}{%- endif -%}"
)
DEEPSEEK_R1 = (  # of a call it takes the arguments as text
    "{%- set ns = namespace(said='', called=false) -%}"
    "{%- for m in messages -%}{%- if m.role == 'system' -%}{%- set ns.said = m.content -%}{%- endif -%}{%- endfor -%}"
    "{{- bos_token + ns.said -}}{%- for m in messages -%}"
    "{%- if m.role == 'user' -%}{%- set ns.called = false -%}{{- '<｜User｜>' + m.content -}}"
    "{%- elif m.role == 'assistant' and m.tool_calls -%}{{- '<｜Assistant｜><｜tool▁calls▁begin｜>' -}}"
    "{%- for call in m.tool_calls -%}"
    "{{- '<｜tool▁call▁begin｜>' + call.function.name + '\\n' + call.function.arguments + '<｜tool▁call▁end｜>' -}}"
    "{%- endfor -%}{{- '<｜tool▁calls▁end｜><｜end▁of▁sentence｜>' -}}"
    "{%- elif m.role == 'assistant' -%}"
    "{{- ('' if ns.called else '<｜Assistant｜>') + m.content.split('</think>')[-1] + '<｜end▁of▁sentence｜>' -}}"
    "{%- set ns.called = false -%}"
    "{%- elif m.role == 'tool' -%}{%- set ns.called = true -%}"
    "{{- '<｜tool▁output▁begin｜>' + m.content + '<｜tool▁output▁end｜>' -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt and not ns.called -%}{{- '<｜Assistant｜><think>\\n' -}}{%- endif -%}"
)
GLM_4 = (
    "{{- '[gMASK]<sop>' -}}{%- for m in messages -%}{{- '<|' + m.role + '|>\\n' + m.content -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>\\n' -}}{%- endif -%}"
)
GLM_4_5 = (
    "{{- '[gMASK]<sop>' -}}{%- if tools -%}{{- '<|system|>\\n' + tools | tojson -}}{%- endif -%}"
    "{%- set ns = namespace(asked=-1) -%}"
    "{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set ns.asked = loop.index0 -%}{%- endif -%}{%- endfor -%}"
    "{%- for m in messages -%}"
    "{%- if m.role == 'user' -%}{{- '<|user|>\\n' + m.content -}}"
    "{{- '/nothink' if enable_thinking is defined and not enable_thinking else '' -}}"
    "{%- elif m.role == 'assistant' -%}{%- set thoughts = '' -%}{%- set text = m.content -%}"
    "{%- if m.reasoning_content is string -%}{%- set thoughts = m.reasoning_content -%}"
    "{%- elif '</think>' in text -%}{%- set thoughts = text.split('</think>')[0].split('<think>')[-1] -%}"
    "{%- set text = text.split('</think>')[-1] -%}{%- endif -%}"
    "{{- '<|assistant|>\\n<think>' + (thoughts.strip() if loop.index0 > ns.asked else '') + '</think>' -}}"
    "{%- if text.strip() -%}{{- '\\n' + text.strip() -}}{%- endif -%}"
    "{%- for call in m.tool_calls or [] -%}{{- '\\n<tool_call>' + call.function.name -}}"
    "{%- for key, value in call.function.arguments.items() -%}"
    "{{- '\\n<arg_key>' + key + '</arg_key>\\n<arg_value>' + value | tojson + '</arg_value>' -}}{%- endfor -%}"
    "{{- '\\n</tool_call>' -}}{%- endfor -%}"
    "{%- elif m.role == 'tool' -%}{{- '<|observation|>\\n<tool_response>\\n' + m.content + '\\n</tool_response>' -}}"
    "{%- elif m.role == 'system' -%}{{- '<|system|>\\n' + m.content -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{- '<|assistant|>' + ('\\n<think></think>' if enable_thinking is defined and not enable_thinking else '') -}}"
    "{%- endif -%}"
)
COMMAND_R = (
    "{{- bos_token -}}"
    + SPLIT
    + "{%- if said is not none -%}{{- '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' + said + '<|END_OF_TURN_TOKEN|>' -}}"
    "{%- endif -%}{%- for m in talk -%}"
    + ALTERNATE
    + "{{- '<|START_OF_TURN_TOKEN|>' + ('<|USER_TOKEN|>' if m.role == 'user' else '<|CHATBOT_TOKEN|>') -}}"
    "{{- m.content.strip() + '<|END_OF_TURN_TOKEN|>' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' -}}{%- endif -%}"
)
COMMAND_R7B = (  # always opens an answer
    "{{- bos_token -}}" + SPLIT + "{{- '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|># System Preamble\\n' -}}"
    "{%- if tools -%}{{- tools | tojson + '\\n' -}}{%- endif -%}"
    "{%- if said is not none -%}{{- '# Developer Preamble\\n' + said -}}{%- endif -%}{{- '<|END_OF_TURN_TOKEN|>' -}}"
    "{%- for m in talk -%}"
    "{%- if m.role == 'user' -%}"
    "{{- '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + m.content + '<|END_OF_TURN_TOKEN|>' -}}"
    "{%- elif m.role == 'assistant' -%}{{- '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' -}}"
    "{%- if m.tool_calls -%}{{- '<|START_THINKING|>' -}}{{- m.reasoning_content -}}{{- '<|END_THINKING|>' -}}"
    "{{- '<|START_ACTION|>' -}}{%- for call in m.tool_calls -%}"
    '{{- \'{"tool_name": "\' + call.function.name + \'", "parameters": \' -}}'
    "{{- call.function.arguments | tojson + '}' -}}"
    "{%- endfor -%}{{- '<|END_ACTION|><|END_OF_TURN_TOKEN|>' -}}"
    "{%- else -%}{{- '<|START_RESPONSE|>' + m.content + '<|END_RESPONSE|><|END_OF_TURN_TOKEN|>' -}}{%- endif -%}"
    "{%- elif m.role == 'tool' -%}"
    "{{- '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' + m.content | tojson + '<|END_OF_TURN_TOKEN|>' -}}{%- endif -%}"
    "{%- endfor -%}{{- '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' -}}"
)
GPT_OSS = (
    "{%- macro preamble() -%}{{- 'You are ChatGPT.\\nCurrent date: ' + strftime_now('%Y-%m-%d') -}}"
    "{{- '\\n\\nReasoning: ' + (reasoning_effort if reasoning_effort is defined else 'medium') -}}{%- endmacro -%}"
    "{{- '<|start|>system<|message|>' + preamble() + '<|end|>' -}}"
    "{%- if messages[0].role in ['developer', 'system'] -%}{%- set said = messages[0].content -%}"
    "{%- set talk = messages[1:] -%}{%- else -%}{%- set said = '' -%}{%- set talk = messages -%}{%- endif -%}"
    "{%- if said or tools -%}{{- '<|start|>developer<|message|>' -}}"
    "{%- if said -%}{{- '# Instructions\\n\\n' + said + '\\n\\n' -}}{%- endif -%}"
    "{%- for tool in tools or [] -%}{{- 'type ' + tool.function.name + ' = any;\\n' -}}{%- endfor -%}"
    "{{- '<|end|>' -}}{%- endif -%}"
    "{%- set ns = namespace(called=none) -%}{%- for m in talk -%}"
    "{%- if m.role == 'assistant' and m.tool_calls -%}{%- set call = m.tool_calls[0].function -%}"
    "{%- set later = talk[loop.index:] | selectattr('role', 'equalto', 'assistant') "
    "| rejectattr('tool_calls') | list -%}"
    "{%- if m.thinking and not later -%}"
    "{{- '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' -}}{%- endif -%}"
    "{{- '<|start|>assistant to=functions.' + call.name + '<|channel|>commentary json<|message|>' -}}"
    "{{- call.arguments | tojson + '<|call|>' -}}{%- set ns.called = call.name -%}"
    "{%- elif m.role == 'assistant' and loop.last and not add_generation_prompt -%}"
    "{%- if m.thinking -%}"
    "{{- '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' -}}{%- endif -%}"
    "{{- '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|return|>' -}}"
    "{%- elif m.role == 'assistant' -%}"
    "{{- '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|end|>' -}}"
    "{%- elif m.role == 'tool' -%}"
    "{{- '<|start|>functions.' + ns.called + ' to=assistant<|channel|>commentary<|message|>' -}}"
    "{{- m.content | tojson + '<|end|>' -}}"
    "{%- elif m.role == 'user' -%}{{- '<|start|>user<|message|>' + m.content + '<|end|>' -}}{%- endif -%}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|start|>assistant' -}}{%- endif -%}"
)


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of chat models.

    Attributes:
        template: its chat template.
        special: its special tokens, besides ``bos`` and ``eos``.
        bos: token at the beginning of a prompt; empty for none.
        eos: the tokenizer's end-of-sequence token.
        end: token that ends an answer; empty if the template writes none.
        header: what a prompt ends with.
        system: what becomes of a system turn.
        definitions: whether definitions of tools are shown.
        calls: whether tool calls and results are shown.
        thoughts: whether an answer that is trained on keeps thoughts.
        thoughts_before: whether an earlier answer keeps them, as in template prior_turn.
        dated: whether prompts hold the current date.
    """

    template: str
    eos: str
    end: str
    header: str
    bos: str = ""
    special: tuple[str, ...] = ()
    system: Literal["shown", "refused", "left out"] = "shown"
    definitions: bool = False
    calls: bool = False
    thoughts: bool = False
    thoughts_before: bool = False
    dated: bool = False


_IM = ("<|im_start|>", "<|im_end|>")
_HEADER = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_PHI = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
_GEMMA = ("<start_of_turn>", "<end_of_turn>")
_COHERE = (
    "<|START_OF_TURN_TOKEN|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|SYSTEM_TOKEN|>",
    "<|USER_TOKEN|>",
    "<|CHATBOT_TOKEN|>",
)
_LLAMA_HEADER = "<|start_header_id|>assistant<|end_header_id|>\n\n"
FAMILIES = {
    "Llama 2": Family(template=LLAMA_2, bos="<s>", eos="</s>", end="</s>", header=" [/INST]"),
    "Llama 3": Family(
        template=LLAMA_3,
        bos="<|begin_of_text|>",
        eos="<|end_of_text|>",
        end="<|eot_id|>",
        header=_LLAMA_HEADER,
        special=_HEADER,
    ),
    "Llama 3.1": Family(
        template=LLAMA_3_1,
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
        end="<|eot_id|>",
        header=_LLAMA_HEADER,
        special=_HEADER,
        definitions=True,
        calls=True,
        dated=True,
    ),
    "Qwen 2.5": Family(
        template=QWEN_2_5,
        eos="<|im_end|>",
        end="<|im_end|>",
        header="<|im_start|>assistant\n",
        special=_IM,
        definitions=True,
        calls=True,
    ),
    "Qwen 3": Family(
        template=QWEN_3,
        eos="<|im_end|>",
        end="<|im_end|>",
        header="<|im_start|>assistant\n",
        special=_IM,
        definitions=True,
        calls=True,
        thoughts=True,
    ),
    "Gemma 2": Family(
        template=GEMMA_2,
        bos="<bos>",
        eos="<eos>",
        end="<end_of_turn>",
        header="<start_of_turn>model\n",
        special=_GEMMA,
        system="refused",
    ),
    "Gemma 3": Family(
        template=GEMMA_3, bos="<bos>", eos="<eos>", end="<end_of_turn>", header="<start_of_turn>model\n", special=_GEMMA
    ),
    "Mistral 7B v0.1": Family(
        template=MISTRAL_V0_1, bos="<s>", eos="</s>", end="</s>", header=" [/INST]", system="refused"
    ),
    "Mistral 7B v0.3": Family(
        template=MISTRAL_V0_3,
        bos="<s>",
        eos="</s>",
        end="</s>",
        header="[/INST]",
        definitions=True,
        calls=True,
        special=(
            "[INST]",
            "[/INST]",
            "[TOOL_CALLS]",
            "[AVAILABLE_TOOLS]",
            "[/AVAILABLE_TOOLS]",
            "[TOOL_RESULTS]",
            "[/TOOL_RESULTS]",
        ),
    ),
    "Phi 3": Family(
        template=PHI_3,
        bos="<s>",
        eos="<|endoftext|>",
        end="<|end|>",
        header="<|assistant|>\n",
        special=_PHI,
        system="left out",
    ),
    "Phi 3.5": Family(template=PHI_3_5, eos="<|endoftext|>", end="<|end|>", header="<|assistant|>\n", special=_PHI),
    "Phi 4": Family(
        template=PHI_4,
        eos="<|im_end|>",
        end="<|im_end|>",
        header="<|im_start|>assistant<|im_sep|>",
        special=(*_IM, "<|im_sep|>"),
    ),
    "Phi 4 mini": Family(template=PHI_4_MINI, eos="<|endoftext|>", end="<|end|>", header="<|assistant|>", special=_PHI),
    "SmolLM 2": Family(
        template=SMOLLM_2, eos="<|im_end|>", end="<|im_end|>", header="<|im_start|>assistant\n", special=_IM
    ),
    "SmolLM 3": Family(
        template=SMOLLM_3,
        eos="<|im_end|>",
        end="<|im_end|>",
        header="<|im_start|>assistant\n",
        special=_IM,
        thoughts=True,
        thoughts_before=True,
        dated=True,
        definitions=True,
    ),
    "OLMo 2": Family(
        template=OLMO_2,
        bos="<|endoftext|>",
        eos="<|endoftext|>",
        end="<|endoftext|>",
        header="<|assistant|>\n",
        special=_PHI,
    ),
    "OLMo 3 Think": Family(
        template=OLMO_3,
        eos="<|endoftext|>",
        end="<|endoftext|>",
        header="<|im_start|>assistant\n<think>",
        special=_IM,
        thoughts=True,
        thoughts_before=True,
    ),
    "Granite 3": Family(
        template=GRANITE_3,
        eos="<|end_of_text|>",
        end="<|end_of_text|>",
        header="<|start_of_role|>assistant<|end_of_role|>",
        special=("<|start_of_role|>", "<|end_of_role|>"),
        dated=True,
        definitions=True,
    ),
    "DeepSeek R1 distills": Family(
        template=DEEPSEEK_R1,
        bos="<｜begin▁of▁sentence｜>",
        eos="<｜end▁of▁sentence｜>",
        end="<｜end▁of▁sentence｜>",
        header="<｜Assistant｜><think>\n",
        thoughts=True,
        calls=True,
        special=(
            "<｜User｜>",
            "<｜Assistant｜>",
            "<｜tool▁calls▁begin｜>",
            "<｜tool▁calls▁end｜>",
            "<｜tool▁call▁begin｜>",
            "<｜tool▁call▁end｜>",
            "<｜tool▁output▁begin｜>",
            "<｜tool▁output▁end｜>",
        ),
    ),
    "GLM 4": Family(
        template=GLM_4,
        eos="<|endoftext|>",
        end="",
        header="<|assistant|>\n",
        special=("[gMASK]", "<sop>", *_PHI[:3], "<|observation|>"),
    ),
    "GLM 4.5": Family(
        template=GLM_4_5,
        eos="<|endoftext|>",
        end="",
        header="<|assistant|>",
        definitions=True,
        calls=True,
        thoughts=True,
        special=("[gMASK]", "<sop>", *_PHI[:3], "<|observation|>"),
    ),
    "Command R": Family(
        template=COMMAND_R,
        bos="<BOS_TOKEN>",
        eos="<|END_OF_TURN_TOKEN|>",
        end="<|END_OF_TURN_TOKEN|>",
        header="<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        special=_COHERE,
    ),
    "Command R7B": Family(
        template=COMMAND_R7B,
        bos="<BOS_TOKEN>",
        eos="<|END_OF_TURN_TOKEN|>",
        end="<|END_OF_TURN_TOKEN|>",
        header="<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        definitions=True,
        calls=True,
        special=(
            *_COHERE,
            "<|START_RESPONSE|>",
            "<|END_RESPONSE|>",
            "<|START_ACTION|>",
            "<|END_ACTION|>",
            "<|START_THINKING|>",
            "<|END_THINKING|>",
        ),
    ),
    "gpt-oss": Family(
        template=GPT_OSS,
        eos="<|return|>",
        end="<|return|>",
        header="<|start|>assistant",
        definitions=True,
        calls=True,
        thoughts=True,
        dated=True,
        special=("<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|call|>"),
    ),
}


@cache
def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    """The family's tokenizer, the same one each time: what renders with it is a process of its own."""
    return made_tokenizer(FAMILIES[name])


def made_tokenizer(family: Family) -> PreTrainedTokenizerFast:
    """One token for each byte, one for each special token, and one for each think tag, which is none."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(BPE(vocab={character: id for id, character in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        **({"bos_token": family.bos} if family.bos else {}),
        eos_token=family.eos,
        pad_token="<|pad|>",
        additional_special_tokens=[token for token in family.special if token not in (family.bos, family.eos)],
    )
    made.add_tokens(["<think>", "</think>"])
    made.chat_template = family.template
    return made
