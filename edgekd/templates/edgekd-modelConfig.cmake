# The bundle that this file lies in, for CMake >= 3.16. Written by @made_with@ from manifest.json.
#
#   find_package(edgekd-model REQUIRED)    with the bundle's folder in CMAKE_PREFIX_PATH, or edgekd-model_DIR=BUNDLE/cmake
#   target_link_libraries(app PRIVATE edgekd::model)      gives <edgekd/model.h>
#   edgekd_embed_model(app [PRECISION int8])              puts the model into the program; needs the language ASM
#   install(FILES ${edgekd-model_FILES} DESTINATION ...)  models and golden vectors
#
# edgekd-model_FOLDER, _DIGEST, _PRECISIONS, _PRECISION (the one to deploy), _FILE_<precision>, _FILES

get_filename_component(edgekd-model_FOLDER "${CMAKE_CURRENT_LIST_DIR}/.." ABSOLUTE)
set(edgekd-model_FILES "${edgekd-model_FOLDER}/manifest.json")

# A bundle that was changed is none: what is built from it would answer for figures that are not its own.
function(_edgekd_model_file name digest)
  set(file "${edgekd-model_FOLDER}/${name}")
  if(NOT EXISTS "${file}")
    message(FATAL_ERROR "edgekd-model: ${file} is missing")
  endif()
  file(SHA256 "${file}" found)
  if(NOT found STREQUAL digest)
    message(FATAL_ERROR "edgekd-model: ${file} is not the file that the manifest names")
  endif()
  set(edgekd-model_FILES ${edgekd-model_FILES} "${file}" PARENT_SCOPE)
endfunction()

@facts@

if(NOT TARGET edgekd::model)
  add_library(edgekd::model INTERFACE IMPORTED)
  set_target_properties(edgekd::model PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${edgekd-model_FOLDER}/include")
endif()

function(edgekd_embed_model target)
  cmake_parse_arguments(arg "" "PRECISION" "" ${ARGN})
  if(NOT arg_PRECISION)
    set(arg_PRECISION ${edgekd-model_PRECISION})
  endif()
  if(NOT arg_PRECISION IN_LIST edgekd-model_PRECISIONS)
    message(FATAL_ERROR "edgekd_embed_model: no ${arg_PRECISION} model in the bundle, but ${edgekd-model_PRECISIONS}")
  endif()
  if(NOT CMAKE_ASM_COMPILER)
    message(FATAL_ERROR "edgekd_embed_model: the assembler embeds it; say project(... LANGUAGES C ASM)")
  endif()
  set(source "${CMAKE_CURRENT_BINARY_DIR}/${target}-model.S")
  file(WRITE "${source}.new" "
    .section .rodata
    .balign 64
    .global edgekd_model_begin
    .global edgekd_model_end
edgekd_model_begin:
    .incbin \"${edgekd-model_FILE_${arg_PRECISION}}\"
edgekd_model_end:
    .section .note.GNU-stack,\"\",%progbits
")
  # Written only when it differs, so that nothing is built anew for it.
  configure_file("${source}.new" "${source}" COPYONLY)
  set_source_files_properties("${source}" PROPERTIES OBJECT_DEPENDS "${edgekd-model_FILE_${arg_PRECISION}}")
  target_sources(${target} PRIVATE "${source}")
  target_compile_definitions(${target} PRIVATE EDGEKD_MODEL_EMBEDDED=${edgekd-model_INDEX_${arg_PRECISION}})
  target_link_libraries(${target} PRIVATE edgekd::model)
endfunction()
