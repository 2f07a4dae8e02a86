# Headers, the compiled library, and the package that find_package(chiasm) reads. One export file per component, so that
# a program which wants the headers alone needs no stb_image, no libjpeg-turbo, no libwebp and no hnswlib.
include(CMakePackageConfigHelpers)
set(chiasm_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/chiasm)

install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/chiasm DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
  FILES_MATCHING PATTERN *.hpp PATTERN *.ipp PATTERN *.inl)

foreach(component chiasm compiled image_file jpeg webp hnswlib)
  set(target chiasm)
  if(NOT component STREQUAL "chiasm")
    set(target chiasm_${component})
  endif()
  if(TARGET ${target})
    install(TARGETS ${target} EXPORT chiasm-${component} ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
    install(EXPORT chiasm-${component} NAMESPACE chiasm:: DESTINATION ${chiasm_package_dir})
  endif()
endforeach()

configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/chiasm-config.cmake.in ${PROJECT_BINARY_DIR}/chiasm-config.cmake
  INSTALL_DESTINATION ${chiasm_package_dir})
# Before 1.0 a new minor version may break: 0.1.2 serves who asks for 0.1, not who asks for 0.2.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/chiasm-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/chiasm-config.cmake ${PROJECT_BINARY_DIR}/chiasm-config-version.cmake
  ${PROJECT_SOURCE_DIR}/cmake/Findstb.cmake ${PROJECT_SOURCE_DIR}/cmake/FindWebP.cmake
  ${PROJECT_SOURCE_DIR}/cmake/Findhnswlib.cmake DESTINATION ${chiasm_package_dir})
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
