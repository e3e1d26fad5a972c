"""Chat templates of families of models, written by us.

They are short, and do what each family's published template does for turns, system turns, tools, thoughts, dates and
the ends of turns. Long instructions that the published ones hold are cut down to their first words. docs/models.md has
the table of what they do.
"""

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
